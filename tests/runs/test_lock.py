"""One writer per workdir, told by a file in it."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cnnjax.runs import WorkdirInUseError, locked
from cnnjax.training import TrainConfig, fit, run_command


def lock(workdir, **changes):
    """Return what the lock of this process says, with changes, and write it."""
    with locked(workdir):
        text = json.loads((workdir / "lock.json").read_text())
    workdir.mkdir(parents=True, exist_ok=True)
    text |= changes
    (workdir / "lock.json").write_text(json.dumps(text))
    return text


def status(pid):
    """Return the state and the start time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


def in_another_thread(function):
    errors = []

    def call():
        try:
            function()
        except WorkdirInUseError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return errors


def enter(workdir):
    with locked(workdir):
        pass


def test_a_workdir_is_locked_while_it_is_used_and_gone_again_if_nothing_was_written(tmp_path):
    workdir = tmp_path / "runs" / "one"
    with locked(workdir):
        there = json.loads((workdir / "lock.json").read_text())
        assert (there["host"], there["pid"]) == (socket.gethostname(), os.getpid())
        assert list(workdir.iterdir()) == [workdir / "lock.json"]
        # A script that has locked it calls the training loop, which locks it too.
        with locked(workdir):
            pass
        assert (workdir / "lock.json").exists()
        [message] = in_another_thread(lambda: enter(workdir))
        assert message.endswith("is in use by another thread of this process")
    assert list(tmp_path.iterdir()) == []
    with locked(workdir):
        (workdir / "result.json").write_text("{}")
    assert list(workdir.iterdir()) == [workdir / "result.json"]


def test_an_error_releases_it(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_runs_keeps_it(tmp_path):
    """The parent of this process runs; its start time is another than that of this process."""
    parent = os.getppid()
    there = lock(tmp_path, pid=parent, started=status(parent)[1])
    before = (tmp_path / "lock.json").read_bytes(), tmp_path.stat().st_mtime_ns
    since = there["since"].replace("T", " ")
    with pytest.raises(WorkdirInUseError) as found:
        enter(tmp_path)
    assert f"is in use by process {parent} on this machine since {since}; wait for it" in str(found.value)
    assert ((tmp_path / "lock.json").read_bytes(), tmp_path.stat().st_mtime_ns) == before


def test_locks_of_processes_that_are_gone_are_taken_over(tmp_path):
    with subprocess.Popen(["true"]) as child:
        # Until it is asked for, a process that has ended is still listed.
        while status(child.pid)[0] != "Z":
            time.sleep(0.01)
        there = lock(tmp_path, pid=child.pid, started=status(child.pid)[1])
        enter(tmp_path)
    lock(tmp_path, **there)
    enter(tmp_path)
    # Another process has the number today, or the machine was started again.
    lock(tmp_path, pid=os.getppid(), started="1")
    enter(tmp_path)
    lock(tmp_path, boot="another")
    enter(tmp_path)
    # This process, which does not hold it.
    lock(tmp_path)
    enter(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_locks_of_other_machines_and_damaged_ones_say_what_to_do(tmp_path):
    lock(tmp_path, host="tpu-3", pid=7, since="2026-01-02T03:04:05+00:00")
    with pytest.raises(WorkdirInUseError) as found:
        enter(tmp_path)
    assert "is in use by process 7 on tpu-3 since 2026-01-02 03:04:05+00:00" in str(found.value)
    assert f"or remove {tmp_path / 'lock.json'} if that process is gone" in str(found.value)
    (tmp_path / "lock.json").write_text('{"host"')
    with pytest.raises(WorkdirInUseError, match="does not say by which process"):
        enter(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock.json"]


def test_of_two_that_find_a_lock_whose_process_is_gone_one_gets_it(tmp_path, monkeypatch):
    parent = os.getppid()
    taken = lock(tmp_path / "other", pid=parent, started=status(parent)[1])
    workdir = tmp_path / "run"
    lock(workdir, started="1")
    rename = Path.rename

    def late(self, target):
        """Let the parent take it over after this process has read it."""
        monkeypatch.undo()
        self.write_text(json.dumps(taken))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(WorkdirInUseError, match=f"by process {parent} on this machine"):
        enter(workdir)
    assert [json.loads(file.read_text()) for file in workdir.iterdir()] == [taken]


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_sigterm_releases_before_it_ends_the_process(tmp_path, monkeypatch):
    killed = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.append(handler))
    handlers = []
    with locked(tmp_path / "run"):
        monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
        handlers[0](signal.SIGTERM, None)
        assert list(tmp_path.iterdir()) == []
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert handlers[1:] == [signal.SIG_DFL, signal.SIG_DFL]


def test_a_second_command_says_so_and_leaves_the_workdir_alone(tmp_path, capsys):
    workdir = tmp_path / "run"
    (tmp_path / "data").mkdir()
    lock(workdir, host="tpu-3")
    config = TrainConfig(data_dir=tmp_path / "data", workdir=workdir)
    assert run_command(lambda: fit(config)) == 2
    message = capsys.readouterr().err
    assert "is in use by process" in message
    assert message.count("\n") == 1
    assert [file.name for file in workdir.iterdir()] == ["lock.json"]
    # Nor was the data prepared.
    assert list((tmp_path / "data").iterdir()) == []
