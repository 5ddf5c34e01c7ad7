"""The table of variants in the documentation comes from the code."""

import pytest

from cnnjax.models import __main__ as script


def test_rows_hold_the_published_facts(capsys):
    assert script.main(["resnet5?"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2] == (
        "| `resnet50` | 25,557,032 | 4.09 | 224x224x3 | 76.130 (torchvision IMAGENET1K_V1) "
        "| He et al. 2015, arXiv:1512.03385, table 1 |"
    )
    # Where nobody publishes multiply-adds, ours are counted.
    assert rows[3].startswith("| `resnet56` | 853,018 | 0.126 | 32x32x3 |")


def test_tables_are_written_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "VARIANTS", {"resnet18": script.VARIANTS["resnet18"]})
    path = tmp_path / "networks.md"
    path.write_text("nothing")
    with pytest.raises(ValueError, match="models: begin"):
        script.main(["--write", str(path)])
    path.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    assert script.main(["--check", str(path)]) == 1
    assert "-old" in capsys.readouterr().out
    assert script.main(["--write", str(path)]) == 0
    assert path.read_text().startswith(f"before\n{script.BEGIN}\n| variant |")
    assert path.read_text().endswith(f"|\n{script.END}\nafter\n")
    assert script.main(["--check", str(path)]) == 0


def test_one_network_is_shown_and_drawn(tmp_path, capsys):
    path = tmp_path / "lenet5.png"
    assert script.main(["lenet5", "--picture", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lenet5: LeCun et al. 1998")
    assert any(line.split()[:2] == ["stage1", "tanh"] for line in lines)
    assert "softmax" in lines[-2]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert script.main(["lenet5", "--depth", "1"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[4:7]] == ["stage1", "stage2", "head"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet*", "--depth", "1"], "for one network by its name"),
        (["lenet5", "--depth", "-1"], "at least 0"),
        (["lenet6"], "no network is called 'lenet6'"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err


def test_deep_networks_are_folded_to_what_can_be_read():
    assert len(script.readable("lenet5", 12).rows) == 12
    # Its stages, and what has multiply-adds.
    assert [row.path for row in script.readable("lenet5", 5).rows] == ["stage1", "stage2", "head"]
    assert len(script.readable("lenet5", 5, main_only=True).rows) == 12
