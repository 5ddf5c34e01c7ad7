import json
import resource
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.training import CheckpointError, CheckpointMismatchError, Checkpoints, train_step


@pytest.fixture(scope="module")
def state(make_tiny_state):
    data = {"image": jax.random.normal(jax.random.key(0), (8, 8, 8, 3)), "label": jnp.arange(8, dtype=jnp.int32)}
    return jax.jit(train_step)(make_tiny_state(), data)[0]


def assert_equal(a, b):
    def plain(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    a, b = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (a, b))
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(plain(a[path]), plain(b[path]))


def test_what_is_read_is_what_was_written(state, tmp_path):
    run = {"data": {"next_index": 7}, "text": "é", "nothing": None}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, run)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored, read = checkpoints.restore(1, state)
        assert_equal(restored, state)
        assert read == run
        step, newest, _, damaged = checkpoints.restore_newest(state)
        assert (step, damaged) == (1, [])
        assert_equal(newest, state)
        assert "params/conv2/kernel" in checkpoints.read(1)[0]


@pytest.mark.parametrize("change", ["array missing", "array too many"])
def test_arrays_are_those_that_were_written(state, tmp_path, change):
    """A description that lists another array than there are stands for a file of arrays that lost or gained one."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        (file,) = (
            file for file in (tmp_path / "checkpoints" / "1" / "run").iterdir() if "checksums" in file.read_text()
        )
        meta = json.loads(file.read_text())
        if change == "array missing":
            meta["checksums"]["params/conv3/kernel"] = meta["checksums"]["params/conv2/kernel"]
        else:
            del meta["checksums"]["params/conv2/kernel"]
        file.write_text(json.dumps(meta))
        with pytest.raises(CheckpointError, match="its arrays are not those that were written"):
            checkpoints.read(1)


def test_a_restored_state_steps_to_the_same_bits(state, tmp_path):
    data = {"image": jnp.ones((8, 8, 8, 3)), "label": jnp.zeros(8, jnp.int32)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        restored, _ = checkpoints.restore(1, state)
    step = jax.jit(train_step)
    assert_equal(step(restored, data)[0].params, step(state, data)[0].params)


def test_the_latest_two_and_the_best_are_kept(state, tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.restore_newest(state) is None
        for step in range(1, 7):
            checkpoints.save(step, state, {"best_step": 2}, best_step=min(step, 2))
        checkpoints.wait()
        assert checkpoints.steps == [2, 5, 6]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.restore_newest(state)
        checkpoints.save(7, state, {"best_step": 2}, best_step=2)
        checkpoints.wait()
        assert checkpoints.steps == [2, 6, 7]


def test_saving_copies_before_it_returns(state, make_tiny_state, tmp_path):
    """The step after a save may overwrite the buffers that are being written."""
    target, state = state, make_tiny_state()
    kept = jax.tree.map(lambda leaf: np.array(leaf), state.params)
    step = jax.jit(train_step, donate_argnums=0)
    data = {"image": jnp.ones((8, 8, 8, 3)), "label": jnp.zeros(8, jnp.int32)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(5):
            state, _ = step(state, data)
        checkpoints.wait()
        assert_equal(checkpoints.restore(1, target)[0].params, kept)


def damage(file, how):
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif data:
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])


@pytest.mark.parametrize("how", ["truncated", "missing", "empty", "flipped"])
def test_damage_to_any_file_is_found_or_harmless(state, tmp_path, how):
    """Restoring gives the exact bits, of this checkpoint or of the one before it, never others."""
    original = tmp_path / "original"
    older = state.replace(step=state.step - 1)
    with Checkpoints(original / "checkpoints") as checkpoints:
        checkpoints.save(1, older, {"number": 1})
        checkpoints.save(2, state, {"number": 2})
    newest = original / "checkpoints" / "2"
    fell_back = 0
    for file in sorted(path.relative_to(original) for path in newest.rglob("*") if path.is_file()):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        damage(copy / file, how)
        with Checkpoints(copy / "checkpoints") as checkpoints:
            step, restored, run, damaged = checkpoints.restore_newest(state)
            assert_equal(restored, {1: older, 2: state}[step])
            assert run == {"number": step}
            if step == 1:
                fell_back += 1
                assert len(damaged) == 1
                assert f"checkpoint 2 in {copy / 'checkpoints'} is damaged" in damaged[0]
                assert checkpoints.steps == [1]
                assert (copy / "corrupt" / "2-1").is_dir()
                checkpoints.save(2, state, {"number": 2})
    assert fell_back >= 3


def test_a_half_written_checkpoint_is_ignored(state, tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-123")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.restore_newest(state)[0] == 1


def test_nothing_is_moved_when_all_are_damaged(state, tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {})
    for file in tmp_path.rglob("run/*"):
        file.write_bytes(b"")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(CheckpointError, match="(?s)checkpoint 2 .*checkpoint 1 .*no good checkpoint is left"):
            checkpoints.restore_newest(state)
        assert checkpoints.steps == [1, 2]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (
            {"num_classes": 7},
            r"params/head/classifier/kernel: float32\[8, 10\] in the checkpoint, float32\[8, 7\] in the model",
        ),
        ({"features": (4, 8, 16)}, r"params/conv3/kernel: only in the model, float32\[3, 3, 8, 16\]"),
        ({"features": (4,)}, r"params/conv2/kernel: only in the checkpoint, float32\[3, 3, 4, 8\]"),
        ({"tx": optax.sgd(0.1)}, "opt_state/0/trace/conv1/kernel: only in the checkpoint"),
    ],
)
def test_another_model_or_optimizer_is_refused_with_paths_and_shapes(state, make_tiny_state, tmp_path, other, expected):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        with pytest.raises(CheckpointMismatchError, match=expected):
            checkpoints.restore_newest(make_tiny_state(**other))
        assert checkpoints.steps == [1]


@pytest.mark.slow
def test_a_write_that_fails_says_so_keeps_what_there_was_and_leaves_room_for_the_next(tmp_path):
    """The system refuses files above a limit, as it does on a full disk."""
    script = f"""
        import resource, signal
        import jax, jax.numpy as jnp
        from cnnjax.training import CheckpointError, Checkpoints

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        small = {{"x": jnp.ones(10)}}
        large = {{f"x{{part}}": jax.random.normal(jax.random.key(part), (200_000,)) for part in range(8)}}
        with Checkpoints({str(tmp_path / "checkpoints")!r}) as checkpoints:
            checkpoints.save(1, small, {{}})
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            try:
                checkpoints.save(2, large, {{}})
                checkpoints.wait()
            except CheckpointError as error:
                print(error)
            parts = list(checkpoints.directory.glob("*.orbax-checkpoint-tmp*"))
            assert (checkpoints.steps, parts) == ([1], []), (checkpoints.steps, parts)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            for step in (2, 3, 4):
                checkpoints.save(step, small, {{}})
            checkpoints.wait()
            assert checkpoints.steps == [3, 4], checkpoints.steps
        with Checkpoints({str(tmp_path / "checkpoints")!r}) as checkpoints:
            assert checkpoints.restore_newest(small)[0] == 4
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "could not write a checkpoint" in done.stdout
    assert "earlier checkpoints are intact" in done.stdout
    # The parts of it that were still to be written do not report, each with a traceback.
    assert done.stderr == ""


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not write a checkpoint to"):
        Checkpoints(tmp_path / "file" / "checkpoints")
