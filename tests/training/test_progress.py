"""What a run shows while it works."""

import io
import re

import pytest
from rich.console import Console

from cnnjax.training import progress
from cnnjax.training.progress import RunProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def run(console, clock, *, done, steps):
    """Take steps of half a second, the first of which is compiled for a minute."""
    with RunProgress(console, total=100, done=done, batch_size=8, epoch="1/2") as shown:
        clock[0] += 60
        for step in range(done + 1, done + 1 + steps):
            shown.advance(step)
            if step % 10 == 0:
                shown.report(step, "1/2", 0.25)
            clock[0] += 0.5


@pytest.mark.parametrize("done", [0, 40])
def test_without_a_terminal_a_line_is_printed_now_and_then(clock, done):
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    run(console, clock, done=done, steps=50)
    lines = console.file.getvalue().splitlines()
    # The first line comes with the second step, after the long compilation; then one every ten seconds.
    assert [int(re.search(r"step (\d+)/100", line)[1]) for line in lines] == [done + 2, done + 22, done + 42]
    assert lines[1] == f"epoch 1/2, step {done + 22}/100: 16 images/s, loss 0.2500, {(78 - done) / 2:.0f} s left"


def test_on_a_terminal_a_bar_shows_rate_loss_and_progress(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    run(console, clock, done=0, steps=50)
    assert re.search(r"epoch 1/2.*50/100.*16 images/s  loss 0.2500", console.file.getvalue())
