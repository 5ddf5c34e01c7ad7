"""The programs that README and the pages of ``docs`` consist of run as printed, and print what the pages say."""

import contextlib
import dataclasses
import importlib.util
import inspect
import io
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

import jax
import pytest

from cnnjax.training import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
RUN = Path(__file__).parent / "pretrained" / "data" / "run"
BLOCK = re.compile(r"^( *)```(\w+)(?: (\w+))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PERCENTAGE = re.compile(r"\d+\.\d%")
# Processors round differently, and training magnifies that.
TOLERANCE = 4.0
# What stands behind the language of a block that no test runs, and how many there are of it on each page.
NOT_RUN = {
    "README.md": {"download": 1},
    "coming-from.md": {"config": 1, "keras": 1, "timm": 1, "torchvision": 1},
    "data.md": {"download": 1},
    "devices.md": {"gpu": 1, "machines": 3},
    "first-run.md": {"download": 1},
    "weights.md": {"download": 1},
    "your-images.md": {"download": 1},
}
# Pages whose programs take more than two processor seconds.
DEAR = {
    "README.md": pytest.mark.slow,
    "augmentation.md": pytest.mark.slow,
    "coming-from.md": pytest.mark.exhaustive,
    "data.md": pytest.mark.slow,
    "exporting.md": (pytest.mark.extras, pytest.mark.filterwarnings("ignore")),
    "see-inside.md": pytest.mark.exhaustive,
    "training.md": pytest.mark.slow,
    "transfer-learning.md": pytest.mark.exhaustive,
    "using-networks.md": pytest.mark.slow,
}


@dataclasses.dataclass
class Block:
    """A block of code on a page: its language, what it needs that tests do not have, and its text."""

    language: str
    needs: str
    text: str


def blocks_of(path):
    """Return the blocks of code on a page, those in tabs too."""
    found = BLOCK.findall(path.read_text())
    return [Block(language, needs, textwrap.dedent(text)) for _, language, needs, text in found]


PAGES = [README, *sorted(DOCS.glob("*.md"))]
# Those of speed.md change the process that they run in.
PROGRAMS = [
    path for path in PAGES if path.name != "speed.md" and any(block.language == "python" for block in blocks_of(path))
]


def run_page(path):
    """Run the blocks of a page as one program, and compare what they print with what the page shows."""
    names: dict[str, object] = {}
    printed, shown = "", True  # What the last program printed, and whether the page has shown it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks_of(path):
            if block.language == "python":
                assert shown or printed == "", f"the page does not show this output:\n{printed}"
                shown = True
                if block.needs:
                    continue
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    exec(compile(block.text, str(path), "exec"), names)
                printed, shown = output.getvalue(), False
            elif block.language == "text" and not shown:
                assert PERCENTAGE.sub("%", printed).split() == PERCENTAGE.sub("%", block.text).split()
                texts = (block.text, printed)
                said, found = ([float(value[:-1]) for value in PERCENTAGE.findall(text)] for text in texts)
                assert found == pytest.approx(said, abs=TOLERANCE)
                shown = True
    assert shown or printed == "", f"the page does not show this output:\n{printed}"


@pytest.mark.parametrize("path", [pytest.param(path, marks=DEAR.get(path.name, ()), id=path.name) for path in PROGRAMS])
def test_pages_are_programs_that_print_what_they_say(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    shutil.copytree(RUN, tmp_path / "runs" / "lenet5-digits")
    monkeypatch.chdir(tmp_path)
    run_page(path)


def test_a_page_that_says_something_else_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError):
        run_page(page)
    page.write_text('=== "tab"\n\n    ```python\n    print(1 + 1)\n    ```\n')
    with pytest.raises(AssertionError, match="does not show this output"):
        run_page(page)


def test_blocks_that_are_not_run_are_few_and_known():
    found: dict[str, dict[str, int]] = {}
    for path in PAGES:
        for block in blocks_of(path):
            if block.needs:
                counts = found.setdefault(path.name, {})
                counts[block.needs] = counts.get(block.needs, 0) + 1
    assert found == NOT_RUN


def commands():
    """Yield the commands of this repository that pages show, as (page, words)."""
    for path in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "experiments/README.md", ROOT / "benchmarks/README.md"]:
        for block in blocks_of(path):
            if block.language == "bash":
                for line in block.text.replace("\\\n", " ").splitlines():
                    words = shlex.split(line.removeprefix("$ "), comments=True)
                    if "python" in words and len(words) > words.index("python") + 1:
                        yield path.name, words[words.index("python") + 1 :]


def help_of(script, subcommand, monkeypatch):
    """Return what a script says to --help."""
    name = f"script_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module there.
    monkeypatch.setitem(sys.modules, name, module)
    arguments = [*subcommand, "--help"]
    # Scripts import their neighbours.
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr("sys.argv", [str(script), *arguments])
    spec.loader.exec_module(module)
    takes_arguments = "arguments" in inspect.signature(module.main).parameters
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        module.main(*[arguments][: int(takes_arguments)])
    return output.getvalue()


@pytest.mark.slow
def test_commands_have_the_flags_that_pages_give_them(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    helps: dict[tuple[str, ...], str] = {}
    for page, (first, *rest) in commands():
        if first == "-m" and rest[0].startswith("cnnjax"):
            script = ROOT / rest.pop(0).replace(".", "/")
            script = script / "__main__.py" if script.is_dir() else script.with_suffix(".py")
        elif first.startswith(("experiments/", "benchmarks/")):
            script = ROOT / first
        else:
            continue
        assert script.exists(), f"{page}: {script} is not there"
        flags = {word.partition("=")[0] for word in rest if re.match(r"--\w", word)}
        if not flags:
            continue
        subcommand = tuple(word for word in rest[:1] if word in ("apply", "picture", "train", "write"))
        key = (str(script), *subcommand)
        if key not in helps:
            helps[key] = help_of(script, subcommand, monkeypatch)
        unknown = sorted(flag for flag in flags if not re.search(rf"{flag}\b", helps[key]))
        assert not unknown, f"{page}: {script.name} has no {', '.join(unknown)}"


def first_run():
    """Return the table that README shows of the first run."""
    (text,) = (block.text for block in blocks_of(README) if block.text.startswith("model "))
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines()[:-1])


@pytest.mark.slow
def test_the_first_run_ends_as_readme_says(tmp_path, monkeypatch, capsys):
    from cnnjax.training import fit, parse_config

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # Tests divide the processor into devices, which the first run does not.
    fit(parse_config(["--parallel", "single"], ""))
    lines = capsys.readouterr().out.splitlines()
    said = first_run()
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("model ")) :]
    found = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in table[: len(said)])
    assert list(found) == list(said)
    for name in ("model", "dataset", "num params", "steps", "epochs"):
        assert found[name] == said[name]
    for name in ("train accuracy", "test accuracy", "best test accuracy"):
        # Compiled in another way, the run rounds in another way; a test image is 0.28 %.
        assert float(found[name].rstrip(" %")) == pytest.approx(float(said[name].rstrip(" %")), abs=1.2)
    assert table[len(said)] == "Files are in runs/lenet5-digits"


def test_numbers_that_pages_share_are_the_same():
    run = first_run()
    assert RECIPES["digits-lenet5"].verified.startswith(run["test accuracy"])
    results = (ROOT / "experiments/README.md").read_text()
    assert f"| {run['test accuracy']} | {float(run['seconds']):.0f} s | {run['images per second'][:-2]} |" in results
    shown = [block.text for block in blocks_of(DOCS / "first-run.md") if block.text.startswith("test loss")]
    assert [line in (README.read_text()) for line in shown[0].splitlines()] == [True] * 9
    pattern = r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$"
    rows = re.findall(pattern, README.read_text(), re.MULTILINE)
    assert len(rows) == 3
    speed = (DOCS / "speed.md").read_text()
    columns = ((224, "inference"), (224, "train"), (64, "train"), (32, "train"))
    for network, *ratios in rows:
        for (pixels, mode), ratio in zip(columns, ratios, strict=True):
            assert re.search(rf"^\| {pixels} \| `{network}` \| {mode} \|.*\| {ratio} \|$", speed, re.MULTILINE)


def test_readme_is_two_screens():
    assert len(README.read_bytes()) <= 8 * 1024


def test_what_the_page_on_speed_sets_is_there(monkeypatch):
    called = []
    names = ["large_pages.use_large_pages", "nn.onednn.use_onednn", "training.compilation.use_compilation_cache"]
    for name in names:
        monkeypatch.setattr(f"cnnjax.{name}", lambda name=name: called.append(name))
    for block in blocks_of(DOCS / "speed.md"):
        if block.language == "python":
            exec(block.text, {})
    assert called == names
