"""Which process is meant, and whether it still runs."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def process_identity(pid: int | None = None) -> dict[str, Any]:
    """Return what tells a process from others: host, number and, where /proc has them, boot and start time.

    Args:
      pid: its number; None: this process.
    """
    pid = os.getpid() if pid is None else pid
    boot = started = None
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = _status(pid)[19]
    return {"host": socket.gethostname(), "pid": pid, "boot": boot, "started": started}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Return whether a process of this machine has ended; of other machines, nothing is known, and the answer is False.

    Args:
      process: see `process_identity`.
    """
    if process["host"] != socket.gethostname():
        return False
    now = process_identity(process["pid"])
    # A process that has the number of another one started later; after a restart of the machine, all are gone.
    return not _runs(process["pid"]) or any(process.get(name) != now[name] for name in ("boot", "started"))


def _status(pid: int) -> list[str]:
    """Return the third and further fields of /proc/<pid>/stat; the second, in brackets, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # One that has ended and whose parent has not asked for it yet.
    with contextlib.suppress(OSError):
        return _status(pid)[0] not in ("Z", "X")
    return True
