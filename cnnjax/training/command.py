"""What scripts do with errors and signals, so that all of them do the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable

from rich.console import Console

from cnnjax.runs.checkpoints import CheckpointError
from cnnjax.training.interruption import Interrupted
from cnnjax.training.loop import TrainingError
from cnnjax.training.processes import LostProcessError, ProcessesError


def run_command(command: Callable[[], object]) -> int:
    """Run a script and return its exit code.

    A value that cannot be used, data or files that cannot be read, and a run that cannot go on are explained in one
    line on stderr; every other error is a mistake of the program, and shows where it came from.

    Args:
      command: parses the command line and does what it asks for.
    Returns:
      0; 2 with the reason on stderr; 130 (SIGINT) or 143 (SIGTERM) stopped. Where another process of a run is gone,
      the process ends here, with 2.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        command()
    except LostProcessError as error:
        errors.print(f"error: {error}", style="red", markup=False)
        _leave(2)
    except (ValueError, CheckpointError, TrainingError, ProcessesError, OSError) as error:
        errors.print(f"error: {error}", style="red", markup=False)
        return 2
    except Interrupted as stop:
        errors.print(f"{stop}; the same command again goes on from here", markup=False)
        return 128 + stop.signal
    except KeyboardInterrupt:
        errors.print("stopped by SIGINT", markup=False)
        return 128 + signal.SIGINT
    return 0


def _leave(code: int) -> None:
    """End this process without JAX's farewell, which waits for a process that is gone and then aborts with a trace."""
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
