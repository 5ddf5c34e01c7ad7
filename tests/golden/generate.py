"""Write the golden files: what reference implementations give for drawn weights and images.

    python tests/golden/generate.py "resnet*" lenet5       # only variants that match
    python tests/golden/generate.py --missing              # only those that have no file yet
    python tests/golden/generate.py --short                # only networks with fewer blocks than the variant

Runs with PyTorch, torchvision, timm and Keras (KERAS_BACKEND=jax); cnnjax and the tests need none of them. What to
run is in references/<family>.py: a list ``REFERENCES`` of `Reference`, and the transcriptions of papers that no
library carries.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from references.reference import Reference  # noqa: E402


def references() -> Iterator[Reference]:
    """Yield the references of all families."""
    for path in sorted((HERE / "references").glob("*.py")):
        yield from getattr(importlib.import_module(f"references.{path.stem}"), "REFERENCES", ())


def main() -> None:
    """Write the files that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="names of variants, with * and ?")
    parser.add_argument("--missing", action="store_true", help="leave files alone that exist")
    parser.add_argument("--short", action="store_true", help="only networks with fewer blocks than the variant")
    parser.add_argument("--list", action="store_true", help="only print what would be written")
    args = parser.parse_args()
    for reference in references():
        path = HERE / "data" / reference.file
        if not any(fnmatch.fnmatch(reference.name, pattern) for pattern in args.patterns):
            continue
        if args.short and not reference.short:
            continue
        if args.missing and path.exists():
            continue
        if args.list:
            print(path.name)
            continue
        path.parent.mkdir(exist_ok=True)
        text = reference.write(path)
        print(f"{path.name:48} {path.stat().st_size:7,} bytes  {text}", flush=True)


if __name__ == "__main__":
    main()
