import json

import pytest


@pytest.mark.slow
def test_a_network_takes_turns_with_itself_folded_and_with_xla_forms(run):
    code, output, progress = run(
        *("vs_peers", "--models", "resnet20", "--mode", "inference", "--peers", "folded", "xla"),
        *("--batch-size", 2, "--repeats", 1, "--json", "-"),
    )
    assert code == 0
    (result,) = json.loads(output)
    assert result["model"] == "resnet20"
    assert set(result["seconds"]) == set(result["compile"]) == {"cnnjax", "folded", "xla"}
    assert min(result["seconds"].values()) > 0
    assert "resnet20, inference: cnnjax" in progress


def test_the_table_names_what_has_no_row(run):
    code, output, _ = run(
        *("vs_peers", "--models", "lenet5", "--mode", "both", "--peers", "folded", "--batch-size", 2, "--repeats", 1)
    )
    assert code == 0
    # LeNet-5 has no batch normalisation to fold.
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if "|" in line]
    assert rows[0] == ["network", "mode", "cnnjax, s", "folded, s", "ours / folded", "compile, s"]
    assert [(row[:2], row[3:5]) for row in rows[2:]] == [
        (["`lenet5`", "inference"], ["", ""]),
        (["`lenet5`", "train"], ["", ""]),
        (["geometric mean", "inference"], ["", ""]),
        (["geometric mean", "train"], ["", ""]),
    ]
    assert "No folded of lenet5: there is no batch normalisation to fold" in output
    assert "No folded of lenet5: folding is for inference" in output


@pytest.mark.slow
def test_means_are_of_ratios_of_ours_to_theirs(run):
    code, output, _ = run(
        *("vs_peers", "--models", "resnet20", "lenet5", "--mode", "inference", "--peers", "xla"),
        *("--batch-size", 2, "--repeats", 1),
    )
    assert code == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if "|" in line]
    assert rows[0] == ["network", "mode", "cnnjax, s", "xla, s", "ours / xla", "compile, s", "compile, ours / xla"]
    first, second, mean = rows[2:]
    for column in (4, 6):
        # Printed with two decimals.
        product = float(first[column]) * float(second[column])
        assert float(mean[column]) == pytest.approx(product**0.5, abs=0.02)


def test_wrong_arguments_are_refused_in_one_line(run):
    for arguments, message in (
        (["--models", "resnet51"], "resnet51"),
        (["--models", "lenet5", "--repeats", 0], "--repeats must be at least 1, got 0"),
    ):
        code, _, errors = run("vs_peers", *arguments)
        assert code == 2
        assert message in errors.splitlines()[-1]
