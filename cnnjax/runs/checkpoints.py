"""Checkpoints of a run: written asynchronously and atomically by Orbax, and verified when they are read.

A checkpoint holds the training state as nested dictionaries of arrays, and a JSON object with what else a run needs to
go on. Checksums of every array lie beside them, because Orbax reads arrays whose bytes have changed without an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization, traverse_util
from orbax.checkpoint import checkpoint_managers

from cnnjax.runs.moments import move_moments, owner
from cnnjax.runs.reader import FORMAT

State = TypeVar("State")
# The newest may turn out to be damaged, so that there is always one before it.
LATEST = 2
# How long what a failed write left is removed again and again, and the pause between.
REMOVAL_SECONDS, REMOVAL_PAUSE = 5.0, 0.05


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read, and what to do about it."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint of another network or optimizer."""


# Prefix of the leaves that may differ when other parameters are frozen.
OPTIMIZER = "opt_state/"


# Arrays that checkpoints of older versions do not have, and that start at the target's value then.
ADDED = frozenset({"nonfinite"})


class LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keep the latest checkpoints and the one of step ``best_step``."""

    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Return one answer a checkpoint, oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [step in steps[-LATEST:] or step == self.best_step for step in steps]


class Checkpoints:
    """The checkpoints of a run, in one folder; a context manager that waits for the last write.

    Args:
      directory: made if it is not there. Damaged checkpoints are moved to ``corrupt`` beside it.

    Attributes:
      notices: what a user should know of the last restore, a sentence each.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self._policy = LatestAndBest()
        self.notices: list[str] = []
        with _writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        # Orbax reports on each of its files, from several threads; what a user has to know is said by the errors here.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        _hide_abandoned_work()
        with _writing(self.directory):
            self._manager = self._open()

    def _open(self) -> Any:
        # Only one of several processes writes: what they hold is equal.
        alone: dict[str, Any] = {
            "primary_host": jax.process_index(),
            "active_processes": {jax.process_index()},
            "barrier_sync_key_prefix": "checkpoints",
        }
        options = ocp.options.MultiprocessingOptions(**alone)
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
        return ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                cleanup_tmp_directories=True,
                save_root_metadata=False,
                multiprocessing_options=options,
                create=False,
            ),
            item_handlers={
                "state": handler,
                "run": ocp.JsonCheckpointHandler(multiprocessing_options=options),
            },
        )

    def _recover(self) -> None:
        """Forget a write that failed, which Orbax takes for a checkpoint, and free the space it takes."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._manager.close()
        # Threads of Orbax may still write other parts of it, and make its folder anew.
        until = time.monotonic() + REMOVAL_SECONDS
        while (parts := list(self.directory.glob("*.orbax-checkpoint-tmp*"))) and time.monotonic() < until:
            for part in parts:
                shutil.rmtree(part, ignore_errors=True)
            time.sleep(REMOVAL_PAUSE)
        self._manager = self._open()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.wait()
        except CheckpointError:
            # An error on its way out explains more than that its last checkpoint could not be written either.
            if kind is None:
                raise
        finally:
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps there are checkpoints of, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, run: Mapping[str, Any], *, best_step: int | None = None) -> None:
        """Start writing a checkpoint; the arrays are copied first, so ``state`` may be donated at once.

        Args:
          step: names the checkpoint; does nothing if there is one.
          state: a pytree that Flax can turn into a dictionary, such as a TrainState. If it has ``frozen``, the paths of
            what is frozen, they are recorded.
          run: anything that JSON can hold.
          best_step: checkpoint to keep beside the latest two.
        Raises:
          CheckpointError: this one or the one before it could not be written, for example because the disk is full.
            What was written before is untouched.
        """
        if step in self._manager.all_steps():
            return
        self._policy.best_step = best_step
        leaves = {path: np.array(leaf) for path, leaf in _flatten(state).items()}
        body = dict(run)
        meta = {
            "format": FORMAT,
            "run": body,
            "run_checksum": _json_checksum(body),
            "frozen": sorted(getattr(state, "frozen", ())),
            "checksums": {path: _checksum(leaf) for path, leaf in leaves.items()},
        }
        try:
            with _writing(self.directory):
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeSave(traverse_util.unflatten_dict(leaves, sep="/")),
                        run=ocp.args.JsonSave(meta),
                    ),
                )
        except CheckpointError:
            self._recover()
            raise

    def wait(self) -> None:
        """Wait until everything is written; raises CheckpointError if something could not be."""
        try:
            with _writing(self.directory):
                self._manager.wait_until_finished()
        except CheckpointError:
            self._recover()
            raise

    def restore(self, step: int, target: State | Callable[[frozenset[str]], State]) -> tuple[State, dict[str, Any]]:
        """Return the state and the run's JSON object of a step.

        Args:
          step: one of `steps`.
          target: a state of the same structure, shapes and types, or a function that returns it, of what was frozen
            when the checkpoint was written (paths with their collections, as ``frozen`` of a TrainState). Its values
            matter only where it has other parts frozen than the checkpoint: there, what the optimizer keeps of newly
            thawed parameters is the target's (zero after ``init``), what it has no place for is left out, and
            `notices` say of which parameters.
        Raises:
          CheckpointError: damaged.
          CheckpointMismatchError: of another network or optimizer; the differing paths are listed with both shapes.
        """
        leaves, meta = self._read(step)
        run = meta["run"]
        frozen = frozenset(meta.get("frozen", ()))
        if callable(target):
            target = target(frozen)
        expected = _flatten(target)
        for path in ADDED:
            if path in expected:
                leaves.setdefault(path, np.array(expected[path]))
            else:
                leaves.pop(path, None)
        leaves, self.notices = _move_to_other_mask(leaves, expected, frozen, getattr(target, "frozen", frozenset()))
        if problems := _differences(leaves, expected):
            raise CheckpointMismatchError(
                f"checkpoint {step} in {self.directory} does not fit this model and optimizer:\n" + "\n".join(problems)
            )
        nested = traverse_util.flatten_dict(_to_dict(target), keep_empty_nodes=True, sep="/")
        filled = {path: leaves.get(path, value) for path, value in nested.items()}
        if "rng" in filled:
            state: Any = target
            filled["rng"] = jax.random.wrap_key_data(filled["rng"], impl=jax.random.key_impl(state.rng))
        return serialization.from_state_dict(target, traverse_util.unflatten_dict(filled, sep="/")), run

    def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays of a step by path (``params/stem/conv1/kernel``), and the run's JSON object.

        Raises:
          CheckpointError: damaged: something is missing, unreadable or not what was written.
        """
        leaves, meta = self._read(step)
        return leaves, meta["run"]

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        problem = f"checkpoint {step} in {self.directory} is damaged: "
        try:
            meta = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
            tree = self._manager.item_metadata(step)["state"]
            if tree is None:
                raise CheckpointError(f"{problem}the list of its arrays is missing")
            as_numpy = jax.tree.map(
                lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree.tree, is_leaf=lambda x: hasattr(x, "shape")
            )
            args = ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=as_numpy))
            state = self._manager.restore(step, args=args).state
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(problem + " ".join(str(error).split())[:200]) from error
        leaves = traverse_util.flatten_dict(state, sep="/")
        if not isinstance(meta, dict) or not {"run", "run_checksum", "checksums"} <= meta.keys():
            raise CheckpointError(f"{problem}its description is incomplete")
        if meta.get("format", 0) > FORMAT:
            raise CheckpointMismatchError(
                f"checkpoint {step} in {self.directory} has format {meta['format']}, and this version of cnnjax reads "
                f"formats up to {FORMAT}; install a newer cnnjax"
            )
        if _json_checksum(meta["run"]) != meta["run_checksum"]:
            raise CheckpointError(f"{problem}its description is not what was written")
        if leaves.keys() != meta["checksums"].keys():
            raise CheckpointError(f"{problem}its arrays are not those that were written")
        for path, leaf in leaves.items():
            if _checksum(leaf) != meta["checksums"][path]:
                raise CheckpointError(f"{problem}array {path} is not what was written")
        return leaves, meta

    def restore_newest(
        self, target: State | Callable[[frozenset[str]], State]
    ) -> tuple[int, State, dict[str, Any], list[str]] | None:
        """Return the newest good checkpoint as (step, state, run, what is wrong with newer ones), or None if empty.

        Damaged ones are moved to the folder ``corrupt`` beside this one, since a run that resumes from before them will
        write these steps again.

        Args:
          target: see `restore`.
        Raises:
          CheckpointError: there are checkpoints, but every one is damaged; none is moved then.
          CheckpointMismatchError: see `restore`.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                state, run = self.restore(step, target)
            except CheckpointMismatchError:
                raise
            except CheckpointError as error:
                damaged[step] = str(error)
                continue
            for bad in damaged:
                self._set_aside(bad)
            self._policy.best_step = run.get("best_step")
            return step, state, run, list(damaged.values())
        if damaged:
            raise CheckpointError(
                "\n".join([*damaged.values(), "no good checkpoint is left; give another --workdir to start again"])
            )
        return None

    def _set_aside(self, step: int) -> None:
        corrupt = self.directory.parent / "corrupt"
        corrupt.mkdir(exist_ok=True)
        number = 1
        while (corrupt / f"{step}-{number}").exists():
            number += 1
        (self.directory / str(step)).rename(corrupt / f"{step}-{number}")
        self._manager.reload()


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Turn what the file system and Orbax's threads raise into one error."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "No space left" in reason:
            reason = "no space left on the disk; free some and start the same command again"
        raise CheckpointError(
            f"could not write a checkpoint to {directory}: {reason[:300]} (earlier checkpoints are intact)"
        ) from error


def _hide_abandoned_work() -> None:
    """Keep what is left of a failed read or write from reporting, in its own time, to an event loop that is gone.

    TensorStore's threads report through the one hook or the other. The error itself is told by whoever waits for it.
    """

    def is_late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)

    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def hide_unraisable(found: sys.UnraisableHookArgs) -> None:
        if not is_late(found.exc_value):
            unraisable(found)

    def hide_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not is_late(error):
            uncaught(kind, error, trace)

    if getattr(unraisable, "__name__", "") != hide_unraisable.__name__:
        sys.unraisablehook = hide_unraisable
    if getattr(uncaught, "__name__", "") != hide_uncaught.__name__:
        sys.excepthook = hide_uncaught


def _to_dict(state: Any) -> Any:
    """Return nested dictionaries; random keys become the numbers they consist of."""

    def plain(leaf: Any) -> Any:
        is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return serialization.to_state_dict(jax.tree.map(plain, state))


def _flatten(state: Any) -> dict[str, Any]:
    """Return the arrays of ``state`` by path."""
    flat = traverse_util.flatten_dict(_to_dict(state), sep="/")
    return {path: leaf for path, leaf in flat.items() if leaf is not None}


def _move_to_other_mask(
    leaves: dict[str, Any], expected: Mapping[str, Any], before: frozenset[str], now: frozenset[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return ``leaves`` fitted to a state with other frozen parts in the optimizer's, and what was done, in words."""
    changed = {path.removeprefix("params/") for path in before ^ now if path.startswith("params/")}
    moved = move_moments(
        leaves,
        expected,
        lambda path: owner(path, changed) if path.startswith(OPTIMIZER) else None,
    )
    told = (
        (moved.started, "are trained again or for the first time, and their part of the optimizer's state starts anew"),
        (moved.dropped, "are frozen now, and their part of the optimizer's state is left out"),
    )
    fitted = {path: np.asarray(leaf) for path, leaf in moved.leaves.items()}
    return fitted, [f"{', '.join(paths)} {what}" for paths, what in told if paths]


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    def describe(leaf: Any) -> str:
        return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"

    lines = [f"  {path}: only in the checkpoint, {describe(found[path])}" for path in found.keys() - expected.keys()]
    lines += [f"  {path}: only in the model, {describe(expected[path])}" for path in expected.keys() - found.keys()]
    for path in found.keys() & expected.keys():
        here, there = describe(found[path]), describe(expected[path])
        if here != there:
            lines.append(f"  {path}: {here} in the checkpoint, {there} in the model")
    return sorted(lines)


def _checksum(leaf: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(leaf).tobytes())


def _json_checksum(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
