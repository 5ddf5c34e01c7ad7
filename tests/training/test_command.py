import os
import signal

import pytest

from cnnjax.data import DataError
from cnnjax.training import CheckpointError, ConfigError, Interrupted, TrainingError, run_command
from cnnjax.training.processes import LostProcessError


def fails_with(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("epochs must be above 0, got -1"), 2),
        (DataError("no such folder [red]"), 2),
        (CheckpointError("cannot be written"), 2),
        (TrainingError("the loss is nan"), 2),
        (OSError(28, "No space left on device"), 2),
        (Interrupted(signal.SIGTERM), 143),
        (Interrupted(signal.SIGINT), 130),
    ],
)
def test_errors_are_one_line_and_an_exit_code(error, code, capsys):
    assert run_command(fails_with(error)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(error) in printed.err
    assert printed.err.count("\n") == 1


def test_a_lost_process_ends_this_one_without_waiting_for_it(capsys, monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    run_command(fails_with(LostProcessError("another process is gone")))
    assert codes == [2]
    assert capsys.readouterr().err == "error: another process is gone\n"


def test_a_key_stops(capsys):
    assert run_command(fails_with(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"


def test_mistakes_of_the_program_are_not_hidden():
    with pytest.raises(KeyError):
        run_command(fails_with(KeyError("x")))


def test_success_is_0():
    assert run_command(lambda: 3) == 0
