"""The README's table of variants comes from the code."""

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
    path = tmp_path / "README.md"
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
