"""What a run shows while it works."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from cnnjax.training import progress
from cnnjax.training.progress import RunProgress


class Device:
    """A device that takes half a second for each step, one after the other, and a minute to compile the first.

    The host needs a hundredth of a second to hand a step over, and waits if ten of them are not done.
    """

    def __init__(self, clock):
        self.clock = clock
        self.seconds = 0.5
        self.ends = {}
        self.waited = 0

    def take(self, step):
        self.clock[0] += 0.01
        if step - 10 in self.ends:
            self.clock[0] = max(self.clock[0], self.ends[step - 10])
        start = max(self.ends.get(step - 1, 0), self.clock[0])
        self.ends[step] = start + (self.seconds if self.ends else 60)

    def wait(self, step):
        self.clock[0] = max(self.clock[0], self.ends[step])

    def peek(self, step):
        """Return the sums after a step, eight images each, whose mean loss is the step's number."""
        return {"loss_sum": Later(self, step, 8 * step * step), "count": Later(self, step, 8 * step)}


class Later:
    """A number that the device gives when it has taken a step."""

    def __init__(self, device, step, value):
        self.device, self.step, self.value = device, step, value

    def is_ready(self):
        return self.device.ends[self.step] <= self.device.clock[0]

    def copy_to_host_async(self):
        pass

    def __array__(self, dtype=None, copy=None):
        if not self.is_ready():
            self.device.waited += 1
            self.device.wait(self.step)
        return np.asarray(self.value, dtype)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def device(clock):
    return Device(clock)


def run(console, device, *, done=0, steps=60, pause_every=0):
    """Take steps, of 100 in all."""
    with RunProgress(console, total=100, done=done, batch_size=8, epoch="1/2") as shown:
        for step in range(done + 1, done + 1 + steps):
            device.take(step)
            shown.advance(step, lambda step=step: device.peek(step))
            if pause_every and step % pause_every == 0:
                device.wait(step)
                shown.pace.pause(step)
                device.clock[0] += 5
                shown.pace.resume()
    return shown.pace


def printed(console):
    """Return step, images a second, loss and seconds left of each line."""
    pattern = r"epoch 1/2, step (\d+)/100: (\S+) images/s, loss (\S+), (\d+) s left"
    found = [re.fullmatch(pattern, line).groups() for line in console.file.getvalue().splitlines()]
    return [(int(step), float(rate.replace(",", "")), float(loss), int(left)) for step, rate, loss, left in found]


@pytest.mark.parametrize("done", [0, 40])
def test_lines_tell_the_rate_of_finished_steps_from_the_first_line_on(device, done):
    """However far ahead the host is, and however long the first step was compiled."""
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    run(console, device, done=done)
    lines = printed(console)
    # The first line comes when the device is through with what the host was ahead, then one every ten seconds.
    assert [step for step, *_ in lines] == [done + 12, done + 32]
    for step, rate, loss, left in lines:
        assert rate == 16
        assert loss == step
        assert abs(left - (100 - step) / 2) <= 1
    # For the first step alone.
    assert device.waited == 1


def test_pauses_count_for_the_time_left_and_not_for_the_rate(device):
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    pace = run(console, device, pause_every=20)
    assert {rate for _, rate, *_ in printed(console)} == {16}
    assert pace.worked == pytest.approx(59 * 0.5, abs=0.1)
    assert (pace.first, pace.done, pace.steps) == (1, 60, 59)
    assert pace.left(100) == pytest.approx(40 * (0.5 + 15 / 59), rel=0.01)


def test_the_rate_is_that_of_the_last_seconds(device):
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with RunProgress(console, total=1000, done=0, batch_size=8, epoch="1/2") as shown:
        for step in range(1, 501):
            device.seconds = 0.5 if step < 100 else 0.1
            device.take(step)
            shown.advance(step, lambda step=step: device.peek(step))
    assert shown.pace.rate == pytest.approx(10, rel=0.02)


def test_steps_that_take_longer_than_the_window_have_a_rate(device):
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    device.seconds = 50.0
    pace = run(console, device, steps=15)
    assert pace.rate == pytest.approx(0.02, rel=0.01)
    assert {rate for _, rate, *_ in printed(console)} == {0.16}


def test_what_somebody_waited_for_is_known_at_once(device, clock):
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with RunProgress(console, total=100, done=0, batch_size=8, epoch="1/2") as shown:
        shown.report(0, "1/2", 3.0)
        assert shown.pace.rate is None
        for step in range(1, 6):
            device.take(step)
            shown.advance(step, lambda step=step: device.peek(step))
        device.wait(5)
        shown.report(5, "1/2", 0.25)
    assert printed(console)[-1] == (5, 16, 0.25, 48)


def test_on_a_terminal_a_bar_shows_rate_loss_and_progress(device):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    run(console, device)
    text = console.file.getvalue()
    assert re.search(r"epoch 1/2.*50/100.*16 images/s  loss 50.0000  left 0:00:2\d", text)
