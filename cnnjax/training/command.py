"""What scripts do with errors and signals, so that all of them do the same."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Callable

import jax
from rich.console import Console

from cnnjax.large_pages import use_large_pages
from cnnjax.nn.onednn import is_asked, use_onednn
from cnnjax.runs.checkpoints import CheckpointError
from cnnjax.training.compilation import OFF, VARIABLE, use_compilation_cache
from cnnjax.training.interruption import Interrupted
from cnnjax.training.loop import TrainingError
from cnnjax.training.processes import LostProcessError, ProcessesError

PLATFORMS = "jax_platforms"
LARGE_PAGES = "CNNJAX_LARGE_PAGES"
ONEDNN = "CNNJAX_ONEDNN"


def run_command(command: Callable[[], object]) -> int:
    """Run a script and return its exit code.

    A value that cannot be used, data or files that cannot be read, and a run that cannot go on are explained in one
    line on stderr; every other error is a fault of the program, and shows its traceback.

    Before that, it puts memory into large pages where the processor computes, keeps compiled programs, and asks for
    oneDNN if it is told to, and says so on stderr in a line each. See `cnnjax.large_pages`,
    `cnnjax.training.compilation` and `cnnjax.nn.onednn`.

    Args:
      command: parses the command line and does what it asks for.
    Returns:
      0; 2 with the reason on stderr; 130 (SIGINT) or 143 (SIGTERM) stopped. Where another process of a run is gone,
      the process ends here, with 2.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        prepare(errors)
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


def prepare(console: Console) -> None:
    """Set up memory and compiled programs of a process that computes, and say so, but for a mere ``--help``.

    ``$CNNJAX_LARGE_PAGES`` is "on" or "off", by default what suits the devices; ``$CNNJAX_ONEDNN`` is "on" or, by
    default, "off"; ``$CNNJAX_COMPILATION_CACHE`` is a folder or "off".

    Raises:
      ValueError: another value of the first two.
      PathError: a folder that is not of this machine.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        return
    wanted = _switch(LARGE_PAGES)
    if wanted == "on" or (wanted is None and only_processors()):
        reason = use_large_pages()
        if reason is None:
            console.print(f"memory is in large pages; {LARGE_PAGES}=off: in small ones", style="dim")
        elif wanted == "on":
            console.print(f"memory is in small pages: {reason}", style="yellow", markup=False)
    ask_for_onednn(console)
    kept = use_compilation_cache()
    if is_asked():
        console.print(kept, style="dim", markup=False)
    elif os.environ.get(VARIABLE) != OFF:
        console.print(f"{kept}; {VARIABLE}=off: not kept", style="dim", markup=False)


def ask_for_onednn(console: Console) -> None:
    """Ask XLA for oneDNN if ``$CNNJAX_ONEDNN`` is "on" and processors compute, and say what came of it.

    With accelerators, XLA would have read its flags before ``--deterministic`` adds one.

    Raises:
      ValueError: the variable is neither "on" nor "off".
    """
    if _switch(ONEDNN) != "on":
        return
    reason = use_onednn() if only_processors() else "JAX may have accelerators; JAX_PLATFORMS=cpu leaves them out"
    if reason is None:
        console.print(f"XLA was asked to compute by oneDNN; {ONEDNN}=off: not asked", style="dim")
    else:
        console.print(f"oneDNN is not used: {reason}", style="yellow", markup=False)


def _switch(variable: str) -> str | None:
    """Return "on", "off" or None, which an environment variable says.

    Raises:
      ValueError: it says something else.
    """
    wanted = os.environ.get(variable)
    if wanted not in (None, "on", OFF):
        raise ValueError(f"{variable} must be on or off, got {wanted!r}")
    return wanted


def only_processors() -> bool:
    """Return whether JAX will compute on processors, as far as is known before its devices are made."""
    if chosen := getattr(jax.config, PLATFORMS):
        return bool(chosen.split(",")[0] == "cpu")
    plugins = importlib.util.find_spec("jax_plugins")
    places = plugins and plugins.submodule_search_locations
    return not (places and any(pkgutil.iter_modules(places))) and importlib.util.find_spec("libtpu") is None


def _leave(code: int) -> None:
    """End this process without JAX's farewell, which waits for a process that is gone and then aborts with a trace."""
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
