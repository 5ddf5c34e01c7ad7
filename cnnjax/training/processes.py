"""Several processes that train together: how they meet, agree, and notice that one of them cannot go on.

Every process runs the same program in step with the others. What reads or writes files of the run happens in process 0
alone, and its outcome, good or bad, is shared, so that no process waits for one that has given up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.runs.directory import package_version

Value = TypeVar("Value")
# Seconds after which a process that says nothing counts as lost, and those that a process waits for others to end.
HEARTBEAT, FAREWELL = 60, 10
# Bytes of what a process tells others about its failure.
MESSAGE = 2000
# In which SLURM's srun, Open MPI and MPICH say how many processes they started together.
STARTED_TOGETHER = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
VERSIONS = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")


class ProcessesError(RuntimeError):
    """Processes that did not meet, do not agree, or have lost one of them."""


class LostProcessError(ProcessesError):
    """Another process of the run is gone, so that nothing can be done together any more."""


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
    """Raise LostProcessError where JAX says by an error of its own that another process is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise LostProcessError(
            "another process of this run is gone, or cannot be reached any more; start all of them again, with the "
            f"same commands, to go on from the last checkpoint ({str(error).splitlines()[0][:200]})"
        ) from error


def connect(
    coordinator: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    timeout: float = 30.0,
) -> None:
    """Meet the other processes of this run, before JAX is used for anything else.

    Without arguments, the environment says whether there are others (a TPU pod, SLURM, Open MPI or Kubernetes, as
    `jax.distributed.initialize` finds out); where there are none, nothing happens. ``num_processes=1`` does not look.
    One process per machine takes all of its devices; of several on one machine, each takes one GPU.

    Args:
      coordinator: "HOST:PORT" of process 0, which listens there.
      process_id: of this process, from 0.
      num_processes: how many there are.
      timeout: seconds to wait for the others.
    Raises:
      ValueError: only some of the arguments were given, or they are impossible.
      ProcessesError: the others did not come in time.
    """
    if num_processes == 1 and coordinator is None and process_id is None:
        return
    given = {"coordinator": coordinator, "process_id": process_id, "num_processes": num_processes}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(f"coordinator, process_id and num_processes go together; {' and '.join(missing)} is missing")
    if coordinator is not None and process_id is not None and num_processes is not None:
        if not re.fullmatch(r"\S+:\d{1,5}", coordinator):
            raise ValueError(f"coordinator must be HOST:PORT, got {coordinator!r}")
        if not 0 <= process_id < num_processes:
            raise ValueError(f"process_id must be from 0 to num_processes - 1, got {process_id} of {num_processes}")
        if process_id > 0:
            _wait_for_port(coordinator, timeout)
    _initialize(coordinator, process_id, num_processes, timeout)


def _wait_for_port(address: str, timeout: float) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            left = max(deadline - time.monotonic(), 0.1)
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:
            if time.monotonic() + 0.2 > deadline:
                raise ProcessesError(
                    f"no coordinator at {address} after {timeout:g} s ({error}); start process 0 with it, "
                    "and check that its port can be reached from here"
                ) from error
            time.sleep(0.2)


def _initialize(coordinator: str | None, process_id: int | None, num_processes: int | None, timeout: float) -> None:
    """Call `jax.distributed.initialize`, which ends the process without a word of ours if the others do not come."""
    # Its handler would swallow the signals that stop a run before the loop has its own.
    jax.config.update("jax_enable_preemption_service", False)
    visible = {name: value for name, value in jax.config.values.items() if name.endswith("_visible_devices")}
    failure: list[Exception] = []

    def initialize() -> None:
        try:
            with warnings.catch_warnings():
                # It warns that Kubernetes needs a package, wherever it runs in a container.
                warnings.simplefilter("ignore")
                jax.distributed.initialize(
                    coordinator,
                    num_processes,
                    process_id,
                    initialization_timeout=round(timeout) + 60,
                    heartbeat_timeout_seconds=HEARTBEAT,
                    shutdown_timeout_seconds=FAREWELL,
                )
        except (ValueError, RuntimeError, OSError) as error:
            failure.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise ProcessesError(
            f"the other processes did not come within {timeout:g} s; start all of them, with the same --coordinator "
            "and --num-processes, or give --num-processes 1 to train alone"
        )
    if failure and not (coordinator is None and "coordinator_address should be defined" in str(failure[0])):
        raise ProcessesError(f"the processes could not meet: {failure[0]}") from failure[0]
    if _one_per_machine() and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        # Where SLURM or Open MPI started a process, JAX shows it one GPU alone, that of its number on the machine.
        for name, value in visible.items():
            jax.config.update(name, value)


def _one_per_machine() -> bool:
    """Return whether SLURM or Open MPI started one process on each machine, which takes all of its devices."""
    processes, machines = (os.environ.get(f"SLURM_STEP_NUM_{counted}") for counted in ("TASKS", "NODES"))
    alone = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return alone or (processes is not None and processes == machines)


def require_one(program: str) -> None:
    """Refuse to be one of several processes, in a program that each of them would run as a whole.

    Args:
      program: what to call it.
    Raises:
      ProcessesError: several were started together.
    """
    count = jax.process_count()
    for variable in STARTED_TOGETHER:
        if (text := os.environ.get(variable, "")).isdecimal():
            count = max(count, int(text))
    if count > 1:
        raise ProcessesError(
            f"{program} runs in one process, which takes all devices of its machine, and this is one of {count} that "
            "were started together; start it once"
        )


def is_first() -> bool:
    """Return whether this process writes the files of the run."""
    return jax.process_index() == 0


def together(function: Callable[[], Value]) -> Value:
    """Return what ``function`` returns; if it fails in one process, raise in all.

    Raises:
      ProcessesError: in those where it did not fail; says which did, and why.
    """
    if jax.process_count() == 1:
        return function()
    value: Any = None
    failure: Exception | None = None
    try:
        value = function()
    except (ValueError, RuntimeError, OSError) as error:
        failure = error
    text = np.zeros(MESSAGE, np.uint8)
    if failure is not None:
        encoded = f"{failure}"[: MESSAGE // 4].encode() or b"?"
        text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    messages = np.asarray(multihost_utils.process_allgather(text))
    if failure is not None:
        raise failure
    for process, message in enumerate(messages):
        if message.any():
            raise ProcessesError(f"process {process} cannot go on: {message.tobytes().rstrip(bytes(1)).decode()}")
    return value


def first_then_others(function: Callable[[], Value]) -> Value:
    """Return what ``function`` returns; process 0 calls it first, and may prepare files that the others then find.

    Raises:
      ProcessesError: where it did not fail, if it failed elsewhere.
    """
    if jax.process_count() == 1:
        return function()
    early = together(lambda: function() if is_first() else None)
    late = together(lambda: None if is_first() else function())
    value: Any = early if is_first() else late
    return value


def share(data: bytes) -> bytes:
    """Return what process 0 gave, in every process."""
    if jax.process_count() == 1:
        return data
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(data), np.int32)))
    own = np.frombuffer(data, np.uint8) if is_first() else np.zeros(size, np.uint8)
    # As bytes: sums over devices, by which arrays are sent, turn -0.0 into 0.0.
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes()


def from_first(function: Callable[[], Any]) -> Any:
    """Return what ``function`` returns in process 0, as JSON holds it; the others do not call it.

    Raises:
      ProcessesError: in the others, if it failed there.
    """
    value = together(lambda: function() if is_first() else None)
    return value if jax.process_count() == 1 else json.loads(share(json.dumps(value).encode()))


def share_tree(tree: Any) -> Any:
    """Return the arrays of process 0, bit for bit, in every process; all have some of the same structure and shapes."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    plain = [
        np.asarray(jax.random.key_data(leaf) if is_key else leaf, order="C")
        for leaf, is_key in zip(leaves, keys, strict=True)
    ]
    data = share(b"".join(leaf.tobytes() for leaf in plain) if is_first() else b"")
    received, start = [], 0
    for leaf, is_key, old in zip(plain, keys, leaves, strict=True):
        array = np.frombuffer(data, leaf.dtype, leaf.size, start).reshape(leaf.shape)
        received.append(
            jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(old)) if is_key else array
        )
        start += leaf.nbytes
    return jax.tree.unflatten(structure, received)


def agree(config: Mapping[str, Any]) -> None:
    """Compare what the processes were asked to do, and with which versions.

    Args:
      config: of this process, as JSON holds it.
    Raises:
      ProcessesError: they differ; in all processes, with the differences.
    """
    if jax.process_count() == 1:
        return
    versions = {f"version of {name}": package_version(name) for name in VERSIONS}
    _compare({**config, **versions}, "the processes disagree", "start all with the same flags")


def agree_on_data(facts: Mapping[str, Any]) -> None:
    """Compare the copies of the data that the processes read.

    Args:
      facts: of this process, as JSON holds it, see `RunSetup.data_facts`.
    Raises:
      ProcessesError: they differ; in all processes, with the differences.
    """
    if jax.process_count() > 1:
        _compare(facts, "the processes read different data", "give all of them a copy of the same (--data-dir)")


def _compare(facts: Mapping[str, Any], problem: str, advice: str) -> None:
    """Raise ProcessesError in all processes if one of them has other facts than process 0."""
    ours = json.loads(json.dumps(dict(facts)))
    theirs = json.loads(share(json.dumps(ours).encode()))
    index = jax.process_index()

    def compare() -> None:
        differing = [
            f"{name} is {_short(first)} in process 0 and {_short(own)} in process {index}"
            for name in sorted(ours.keys() | theirs.keys())
            if (first := theirs.get(name)) != (own := ours.get(name))
        ]
        if differing:
            raise ProcessesError(f"{problem}: {'; '.join(differing)}; {advice}")

    together(compare)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


class Votes:
    """Lets a signal that came to one process stop all at the same step.

    The exchange of a step is read two steps later, so that it never holds up the devices.
    """

    DELAY = 2

    def __init__(self) -> None:
        self._pending: deque[jax.Array] = deque()
        if jax.process_count() > 1:
            mesh = Mesh(np.array(jax.devices()), ("all",))
            self._parts = NamedSharding(mesh, PartitionSpec("all"))
            self._max = jax.jit(lambda votes: votes.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def cast(self, vote: int) -> int:
        """Return the largest vote of all processes: of this step in one process, of an earlier step in several."""
        if jax.process_count() == 1:
            return vote
        own = np.full(jax.local_device_count(), vote, np.int32)
        self._pending.append(self._max(jax.make_array_from_process_local_data(self._parts, own)))
        if len(self._pending) <= self.DELAY:
            return 0
        return int(self._pending.popleft().addressable_shards[0].data)
