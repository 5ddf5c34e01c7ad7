"""What is left of claims, and the rule by which numbers with a spread are compared."""

import dataclasses
import importlib.util
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.claims import CLAIMS, table
from cnnjax.claims.claim import clearly_greater, shown

SPEC = importlib.util.spec_from_file_location("claims", Path(__file__).parents[2] / "experiments" / "claims.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def test_a_difference_counts_beyond_its_spread():
    # Standard deviations 1 and 1: the difference of the means has 1.41.
    assert clearly_greater([11.5, 12.5, 13.5], [10, 11, 12])
    assert not clearly_greater([11.4, 12.4, 13.4], [10, 11, 12])
    assert not clearly_greater([10, 11, 12], [11.5, 12.5, 13.5])
    assert shown([10, 11, 12]) == "11.0 ± 1.0"


def test_every_claim_says_what_it_is():
    for name, claim in CLAIMS.items():
        assert claim.name == name == claim.measure.__module__.rpartition(".")[2]
        assert claim.statement.endswith(".")
        assert any(year in claim.source for year in map(str, range(1998, 2020)))


def test_a_claim_leaves_a_picture_and_its_numbers(tmp_path, capsys):
    assert script.main(["mlp_weights", "--output-dir", str(tmp_path / "out")]) == 0
    assert "mlp_weights: the claim holds here: 16,777,216 weights" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "mlp_weights.json").read_text())
    assert (record["holds"], record["seeds"], record["dataset"]) == (True, [0, 1, 2], None)
    assert CLAIMS["mlp_weights"].judge(record["numbers"]).holds
    with Image.open(tmp_path / "out" / "mlp_weights.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert table([record | {"quick": True}]).splitlines()[2].startswith("| `mlp_weights` | A fully connected layer")


def test_the_list_names_every_claim(capsys):
    assert script.main(["--list"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()[::2]] == list(CLAIMS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give names of claims, or --all"),
        (["--all", "transposed"], "give names of claims, or --all"),
        (["nope"], "unknown claim 'nope'; names are mlp_weights,"),
        (
            ["transposed", "--dataset", "mnist"],
            "--dataset mnist is for claims that train, and transposed trains nothing",
        ),
        (["transposed", "--seeds", "1"], "seeds must be at least 2"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_claim_without_its_packages_is_refused_by_name_and_left_out_of_all(tmp_path, monkeypatch, capsys):
    bare = dataclasses.replace(CLAIMS["transposed"], packages=("json", "no_such_package"))
    monkeypatch.setattr(script, "CLAIMS", {"transposed": bare, "mlp_weights": CLAIMS["mlp_weights"]})
    monkeypatch.chdir(tmp_path)
    assert script.main(["transposed"]) == 2
    needs = "no_such_package: pip install 'cnnjax[pretrained]'"
    assert f"transposed needs {needs}" in capsys.readouterr().err
    assert script.main(["--all"]) == 0
    assert f"transposed: left out, needs {needs}" in capsys.readouterr().out
    assert len((tmp_path / "outputs" / "claims" / "claims.md").read_text().splitlines()) == 3


@pytest.mark.exhaustive
def test_all_claims_run_quickly(tmp_path):
    assert script.main(["--all", "--quick", "--seeds", "2", "--output-dir", str(tmp_path)]) == 0
    lines = (tmp_path / "claims.md").read_text().splitlines()
    run = {name: claim for name, claim in CLAIMS.items() if not claim.missing}
    assert [line.split("`")[1] for line in lines[2:]] == list(run)
    for name, claim in run.items():
        record = json.loads((tmp_path / f"{name}.json").read_text())
        # What is judged is what the file holds.
        assert str(claim.judge(record["numbers"])) == record["verdict"]
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000


def test_the_page_on_claims_names_all_and_its_commands_are_legal(capsys):
    page = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
    assert re.findall(r"^\| \[`(\w+)`\]\(#\1\) ", page, re.MULTILINE) == list(CLAIMS)
    sections = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections] == list(CLAIMS)
    for section, claim in zip(sections, CLAIMS.values(), strict=True):
        quoted = " ".join(line.removeprefix("> ") for line in section.splitlines() if line.startswith("> "))
        assert quoted == claim.statement
    commands = re.findall(r"^python experiments/claims\.py ([^#\n]*)", page, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        arguments = command.split()
        assert script.main([*arguments, "--list"]) == 0
        capsys.readouterr()
        names = list(itertools.takewhile(lambda argument: not argument.startswith("--"), arguments))
        assert names or {"--all", "--list"} & set(arguments)
        assert set(names) <= set(CLAIMS)
