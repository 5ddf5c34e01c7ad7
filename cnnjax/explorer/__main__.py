"""Show what a network computes for a picture, unit by unit, on a page in the browser.

    python -m cnnjax.explorer --workdir runs/lenet5-digits
    python -m cnnjax.explorer --weights torchvision://resnet18/IMAGENET1K_V1 --images cat.png
    python -m cnnjax.explorer --model efficientnet_lite0 --weights efficientnet-lite0-57934424.pth --images cat.png
    python -m cnnjax.explorer --workdir runs/lenet5-digits --out lenet5.html

Serves the page on 127.0.0.1, to this machine alone, until it is stopped with Ctrl-C. With ``--out`` it writes the page
into one file instead, which opens without a network and without Python. Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from cnnjax.explorer.network import Network
from cnnjax.explorer.overlays import Overlays
from cnnjax.explorer.page import one_file
from cnnjax.explorer.pictures import Examples, examples_of_files, examples_of_run, photographs
from cnnjax.explorer.server import Server
from cnnjax.pretrained.flags import add_network_flags, check_network_flags, open_network
from cnnjax.runs import Run
from cnnjax.training import run_command
from cnnjax.writing import write_whole


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m cnnjax.explorer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_network_flags(parser, drawn=True)
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[], metavar="IMAGE", help="image files to offer on the page"
    )
    parser.add_argument(
        "--port", type=int, default=8350, help="port to serve on; 0 takes any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="write the page to one file instead of serving it"
    )
    parser.add_argument(
        "--examples", type=int, default=8, help="number of pictures in that file (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    check_network_flags(parser, given, drawn=True)
    if given.workdir is None and given.weights is None and given.model is None:
        parser.error("give --workdir, --weights, or --model for drawn weights")
    if given.examples < 1:
        parser.error(f"--examples must be at least 1, got {given.examples}")
    if not 0 <= given.port <= 65535:
        parser.error(f"--port must be from 0 to 65535, got {given.port}")
    return given


def open_page(given: argparse.Namespace) -> tuple[Network, Examples]:
    """Return the network that the command line names, and pictures for it."""
    found = open_network(given, "classification")
    network = Network(
        found.title, found.model, found.variables, found.preprocessing, found.label_names, trained=found.trained
    )
    if given.images:
        return network, examples_of_files(given.images, len(network.preprocessing.mean))
    return network, examples_of_run(found) if isinstance(found, Run) else photographs()


def explore(given: argparse.Namespace) -> None:
    """Serve the page, or write it into a file."""
    network, examples = open_page(given)
    overlays = Overlays(network)
    if given.out is not None:
        count = min(given.examples, examples.count)
        pictures = [
            (network.preprocessing.prepare(pixels), label) for pixels, label in map(examples.read, range(count))
        ]
        maps = [{method: overlays(pixels, method) for method in overlays.methods} for pixels, _ in pictures]
        write_whole(given.out, one_file(network, pictures, maps))
        print(f"The page is {given.out}")
        return
    try:
        server = Server(network, examples, given.port, overlays)
    except OSError as error:
        raise OSError(f"port {given.port} cannot be used ({error.strerror}); give another --port, or 0") from error
    print(f"The page is {server.url} (stop it with Ctrl-C)", flush=True)
    # Compiled while the page is looked at, so that the first click on a map is as fast as all others.
    threading.Thread(target=overlays.warm_up, daemon=True).start()
    with server:
        server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = parse(arguments)
    return run_command(lambda: explore(given))


if __name__ == "__main__":
    sys.exit(main())
