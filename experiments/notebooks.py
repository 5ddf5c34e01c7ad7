"""Build the notebooks of the course for Jupyter and Colab: .ipynb files from the Markdown in docs/course.

    python experiments/notebooks.py                       # English, into outputs/notebooks
    python experiments/notebooks.py --language es --output ~/curso
    python experiments/notebooks.py --install "cnnjax @ git+https://example.org/cnnjax.git"

Needs jupytext (``pip install 'cnnjax[course]'``). On Colab the first cell installs the library, and restarts the
session for it; then run all cells once more. ``--install`` says what pip is asked for: a name, a URL, or a wheel that
Colab can reach. Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cnnjax.places import local_path
from cnnjax.training import run_command
from cnnjax.writing import write_whole

COURSE = Path(__file__).parents[1] / "docs" / "course"
LANGUAGES = {"en": COURSE / "notebooks", "es": COURSE / "es" / "notebooks", "pt": COURSE / "pt" / "notebooks"}
INSTALL = """\
import importlib.util
import subprocess
import sys

# On Colab the library has to be installed; elsewhere it is there.
if "google.colab" in sys.modules and importlib.util.find_spec("cnnjax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", {requirement!r}], check=True)
    # Older versions of NumPy and Matplotlib may be in the kernel's memory already. The error keeps the next cells from
    # running before it has gone.
    get_ipython().kernel.do_shutdown(restart=True)
    raise SystemExit("The library is installed, and the session restarts. Then run all cells once more.")"""


def build(language: str, output: Path, requirement: str) -> list[Path]:
    """Write the notebooks of a language, and return their paths.

    Args:
      language: "en", "es" or "pt".
      output: a folder, made if need be.
      requirement: what pip installs on Colab.
    Raises:
      ModuleNotFoundError: jupytext is not installed.
    """
    import jupytext
    from nbformat.v4 import new_code_cell

    output.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sorted(LANGUAGES[language].glob("*.md")):
        notebook = jupytext.read(source)
        # Behind the title.
        notebook.cells.insert(1, new_code_cell(INSTALL.format(requirement=requirement), id="install"))
        for number, cell in enumerate(notebook.cells):
            # Equal sources make equal files.
            cell.id = f"cell-{number}"
        path = output / f"{source.stem}.ipynb"
        write_whole(path, jupytext.writes(notebook, fmt="ipynb"))
        written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=sorted(LANGUAGES), default="en", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("outputs/notebooks"), help="default: %(default)s")
    parser.add_argument("--install", default="cnnjax", help="what pip installs on Colab (default: %(default)s)")
    given = parser.parse_args(arguments)

    def command() -> None:
        try:
            paths = build(given.language, local_path(given.output, "output"), given.install)
        except ModuleNotFoundError as error:
            parser.error(f"{error.name} is not installed: pip install 'cnnjax[course]'")
        print(*paths, sep="\n")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
