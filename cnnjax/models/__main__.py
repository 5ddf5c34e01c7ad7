"""Show one network, print the table of variants, or keep the one in a document up to date.

python -m cnnjax.models vgg16                       # its layers: sizes, receptive fields, parameters, multiply-adds
python -m cnnjax.models vgg16 --picture vgg16.png   # and draw it
python -m cnnjax.models googlenet --depth 2         # stages and blocks; 0 for every layer
python -m cnnjax.models "resnet*"                   # the table of variants; without a pattern, of all
python -m cnnjax.models --write docs/networks.md    # replace what is between the marks
python -m cnnjax.models --check docs/networks.md    # fail if that differs
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

from cnnjax.models import VARIANTS, create_model, list_models
from cnnjax.models.summary import Summary, count_macs, summary
from cnnjax.writing import write_whole

BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"
# Lines of a table and blocks of a picture that people still read.
MOST_ROWS, MOST_BLOCKS = 60, 80
HEAD = (
    "| variant | parameters | multiply-adds, 10<sup>9</sup> | input | reference result, top-1 % on ImageNet | paper |",
    "|---|--:|--:|---|---|---|",
)


def gmacs(name: str) -> float:
    """Return a variant's multiply-adds in 1e9: the published figure, or our count where there is none."""
    info = VARIANTS[name].info
    if info.gmacs is not None:
        return info.gmacs
    classes = {} if info.num_classes is None else {"num_classes": info.num_classes}
    return count_macs(create_model(name, **classes), (*info.input_size, info.channels)) / 1e9


def row(name: str) -> str:
    """Return a variant's line of the table."""
    info = VARIANTS[name].info
    result = info.result or ""
    if info.top1 is not None:
        result = f"{info.top1:.3f}" + (f" ({info.weights})" if info.weights else "")
    shape = f"{info.input_size[0]}x{info.input_size[1]}x{info.channels}"
    return f"| `{name}` | {info.num_params:,} | {gmacs(name):.3g} | {shape} | {result} | {info.paper} |"


def table(names: Iterable[str]) -> str:
    """Return the Markdown table of variants, in the order of families and of their papers' tables."""
    return "\n".join([*HEAD, *(row(name) for name in names)])


def replace(text: str, table: str) -> str:
    """Return a document with ``table`` between its marks.

    Raises:
      ValueError: the marks are not there, or not in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the table goes between the lines {BEGIN} and {END}, which are not in the file")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def readable(name: str, most: int, main_only: bool = False) -> Summary:
    """Return a variant's summary at the greatest depth at which it has at most so many rows.

    Args:
      name: the variant.
      most: rows that can be read.
      main_only: count those with parameters or multiply-adds only.
    """
    info = VARIANTS[name].info
    model, shape = create_model(name), (*info.input_size, info.channels)
    whole = summary(model, shape)
    deepest = max(row.path.count("/") + 1 for row in whole.rows)
    for depth in (None, *range(deepest - 1, 0, -1)):
        found = whole if depth is None else summary(model, shape, depth=depth)
        if sum(bool(row.macs) or not main_only for row in found.rows) <= most:
            break
    return found


def describe(name: str, depth: int | None) -> str:
    """Return a variant's facts and its layers as text.

    Args:
      name: the variant.
      depth: as `summary` takes it, 0 for every layer; None for the greatest that is at most `MOST_ROWS` lines.
    """
    info = VARIANTS[name].info
    if depth is None:
        table = readable(name, MOST_ROWS)
    else:
        table = summary(create_model(name), (*info.input_size, info.channels), depth=depth or None)
    returns = {
        "classification": "Returns logits; softmax, which makes probabilities of them, belongs to the loss.",
        "segmentation": "Returns logits of each pixel; softmax, over the classes, belongs to the loss.",
        "restoration": "Returns an image like its input.",
    }[info.task]
    return f"{name}: {info.paper}\n{table}\n{returns}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cnnjax.models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pattern", nargs="?", default="*", help="a network to show, or names to print, with * and ?")
    parser.add_argument("--depth", type=int, help="of the layers shown, 0 for all (default: what fits on 60 lines)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the network to a PNG file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", type=Path, metavar="FILE", help="put the table of all variants into the file")
    where.add_argument("--check", type=Path, metavar="FILE", help="fail if the file's table is another one")
    options = parser.parse_args(arguments)

    if options.pattern in VARIANTS:
        return show(parser, options)
    if options.depth is not None or options.picture is not None:
        parser.error(f"--depth and --picture are for one network by its name, got {options.pattern!r}")
    path = options.write or options.check
    if path is None:
        chosen = set(list_models(options.pattern))
        if not chosen:
            parser.error(f"no network is called {options.pattern!r}; list all with: python -m cnnjax.models")
        print(table(name for name in VARIANTS if name in chosen))
        return 0
    old = path.read_text(encoding="utf-8")
    new = replace(old, table(VARIANTS))
    if options.write:
        write_whole(path, new)
    elif new != old:
        sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(path), "the code"))
        print(f"\n{path} is out of date: python -m cnnjax.models --write {path}")
        return 1
    return 0


def show(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Print and draw one network, and return the exit status."""
    from cnnjax.visualize import draw_network

    name = options.pattern
    if options.write or options.check or (options.depth is not None and options.depth < 0):
        parser.error("one network takes --picture and a --depth of at least 0")
    print(describe(name, options.depth))
    if options.picture is not None:
        info = VARIANTS[name].info
        table = readable(name, MOST_BLOCKS, main_only=True) if options.depth is None else None
        table = table or summary(create_model(name), (*info.input_size, info.channels), depth=options.depth or None)
        draw_network(table, options.picture, f"{name} ({info.paper.split(',')[0]})")
        print(options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
