import json


def test_a_network_takes_turns_with_itself_folded_and_with_xla_forms(run):
    code, output, progress = run(
        *("vs_peers", "--models", "resnet20", "--mode", "inference", "--peers", "folded", "xla"),
        *("--batch-size", 2, "--repeats", 1, "--json"),
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
    rows = [line for line in output.splitlines() if "lenet5" in line]
    assert [row.split("│")[4].strip() for row in rows] == ["-", "-"]


def test_wrong_arguments_are_refused_in_one_line(run):
    for arguments, message in (
        (["--models", "resnet51"], "resnet51"),
        (["--models", "lenet5", "--repeats", 0], "--repeats must be at least 1, got 0"),
    ):
        code, _, errors = run("vs_peers", *arguments)
        assert code == 2
        assert message in errors.splitlines()[-1]
