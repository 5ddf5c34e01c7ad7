"""Compiled programs are kept where they can be, and nothing stops where they cannot."""

import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import filelock
import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from cnnjax.training import command, compilation, run_command
from cnnjax.training.compilation import VARIABLE, use_compilation_cache
from cnnjax.training.config import TrainConfig

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def fresh(monkeypatch):
    """Forget the folder of this suite, and put all back behind the test."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compute():
    """Compile a program of its own, as every call makes another function, and return what it computes."""
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sin(x * 3).sum())(jnp.arange(5.0)))


def entries(folder):
    return sorted(Path(folder).rglob("*-cache"))


def test_programs_are_kept_in_the_users_cache_by_processor_and_read_again(fresh, tmp_path):
    fresh.setenv("CNNJAX_CACHE", str(tmp_path))
    message = use_compilation_cache()
    (folder,) = (tmp_path / "programs").iterdir()
    assert message == f"compiled programs are kept in {folder}"
    expected = compute()
    kept = {path: path.read_bytes() for path in entries(folder)}
    assert kept
    assert compute() == expected
    assert {path: path.read_bytes() for path in entries(folder)} == kept
    # Another call goes on with the same folder, and "off" ends it.
    assert use_compilation_cache() == message
    assert use_compilation_cache("off") == "compiled programs are not kept"
    assert jax.config.jax_compilation_cache_dir is None


def test_the_variable_is_a_folder_or_off_and_what_jax_was_told_stays(fresh, tmp_path):
    fresh.setenv(VARIABLE, "off")
    assert use_compilation_cache() == "compiled programs are not kept"
    fresh.setenv(VARIABLE, str(tmp_path / "mine"))
    assert use_compilation_cache().startswith(f"compiled programs are kept in {tmp_path / 'mine'}{os.sep}")
    fresh.delenv(VARIABLE)
    jax.config.update("jax_compilation_cache_dir", "/there")
    assert use_compilation_cache() == "compiled programs are kept in /there"
    fresh.setenv("JAX_COMPILATION_CACHE_DIR", "/told")
    use_compilation_cache("off")
    assert jax.config.jax_compilation_cache_dir == "/told"


def test_what_was_damaged_or_left_half_written_is_compiled_again(fresh, tmp_path):
    use_compilation_cache(tmp_path)
    expected = compute()
    for path in entries(tmp_path):
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert compute() == expected
    # A process that dies while it writes leaves no time of the last use. The next one clears that away.
    for path in tmp_path.rglob("*-atime"):
        path.unlink()
    use_compilation_cache(tmp_path)
    assert not entries(tmp_path)
    assert compute() == expected
    assert entries(tmp_path)


def test_a_full_disk_is_a_warning(fresh, tmp_path):
    use_compilation_cache(tmp_path)
    write = Path.write_bytes

    def full(path, data):
        if path.name.endswith("-cache"):
            raise OSError(28, "No space left on device")
        return write(path, data)

    fresh.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        expected = compute()
    assert not entries(tmp_path)
    fresh.undo()
    assert compute() == expected


def test_a_folder_that_cannot_be_written_to_is_read(fresh, tmp_path):
    use_compilation_cache(tmp_path)
    expected = compute()
    before = sorted(tmp_path.rglob("*"))
    # Root may write everywhere, whatever the modes are.
    fresh.setattr(compilation.os, "access", lambda *_: False)
    assert use_compilation_cache(tmp_path).startswith("compiled programs are read from")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute() == expected
        jax.jit(lambda x: jnp.cos(x) - 7)(jnp.arange(3.0))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_made_or_whose_lock_is_held_is_not_used(fresh, tmp_path):
    (tmp_path / "file").write_text("")
    assert "Not a directory" in use_compilation_cache(tmp_path / "file")
    assert jax.config.jax_compilation_cache_dir is None
    use_compilation_cache(tmp_path / "held")
    (lock,) = tmp_path.rglob(".lockfile")
    fresh.setattr(compilation, "LOCK_SECONDS", 0.01)
    with filelock.FileLock(lock):
        assert "does not let go of" in use_compilation_cache(tmp_path / "held")


def test_the_oldest_programs_go_when_the_limit_is_reached(fresh, tmp_path):
    use_compilation_cache(tmp_path)
    compute()
    size = sum(path.stat().st_size for path in entries(tmp_path))
    fresh.setattr(compilation, "LIMIT", size)
    use_compilation_cache(tmp_path)
    jax.jit(lambda x: jnp.tan(x) + 11)(jnp.arange(7.0))
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= size


def test_scripts_say_where_programs_are_kept_but_not_beside_their_help(fresh, tmp_path, capsys):
    fresh.setenv(VARIABLE, str(tmp_path))
    fresh.setattr(sys, "argv", ["train.py"])
    assert run_command(lambda: None) == 0
    assert f"compiled programs are kept in {tmp_path}" in capsys.readouterr().err
    fresh.setattr(sys, "argv", ["train.py", "--help"])
    assert run_command(lambda: None) == 0
    assert capsys.readouterr().err == ""
    fresh.setattr(sys, "argv", ["train.py"])
    for variable in ("CNNJAX_LARGE_PAGES", "CNNJAX_ONEDNN"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, "yes")
            assert run_command(lambda: None) == 2
        assert f"{variable} must be on or off, got 'yes'" in capsys.readouterr().err


def test_scripts_ask_for_onednn_where_they_are_told_to_and_then_keep_nothing(fresh, tmp_path, capsys):
    fresh.setenv(VARIABLE, str(tmp_path / "programs"))
    fresh.setenv("CNNJAX_ONEDNN", "on")
    fresh.setattr(sys, "argv", ["train.py"])
    fresh.setattr(command, "only_processors", lambda: False)
    assert run_command(lambda: None) == 0
    assert "oneDNN is not used: JAX may have accelerators" in capsys.readouterr().err
    fresh.setattr(command, "only_processors", lambda: True)
    fresh.setattr(command, "use_onednn", lambda: "another system")
    assert run_command(lambda: None) == 0
    assert "oneDNN is not used: another system" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "programs")

    fresh.setattr(command, "use_onednn", lambda: None)
    for module in (command, compilation):
        fresh.setattr(module, "is_asked", lambda: True)
    assert run_command(lambda: None) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first == "XLA was asked to compute by oneDNN; CNNJAX_ONEDNN=off: not asked"
    assert second == "compiled programs are not kept: XLA cannot store those with oneDNN"
    assert getattr(jax.config, SETTINGS[0]) is None
    assert not (tmp_path / "programs").exists()


def test_where_programs_are_kept_may_change_between_two_parts_of_a_run():
    assert "compilation_cache" in TrainConfig().free_fields


@pytest.mark.slow
def test_several_processes_share_a_folder(tmp_path):
    code = f"""
        import warnings
        warnings.simplefilter("error")
        import jax, jax.numpy as jnp
        from cnnjax.training.compilation import use_compilation_cache
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_compilation_cache_dir", None)
        use_compilation_cache({str(tmp_path)!r})
        for number in range(40):
            jax.jit(lambda x: x * number + jnp.sin(x))(jnp.arange(9.0)).block_until_ready()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
    assert len(entries(tmp_path)) >= 40
