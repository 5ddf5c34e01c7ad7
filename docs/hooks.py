"""Pages of the site that come from the code: one for each family of networks, and the documents outside ``docs``.

MkDocs calls `on_files` before it reads the pages (mkdocs.yml, ``hooks``). What is missing is a warning, and so an error
of ``mkdocs build --strict``.
"""

from __future__ import annotations

import logging
import posixpath
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import cnnjax
from cnnjax.models import VARIANTS
from cnnjax.training import RECIPES

log = logging.getLogger("mkdocs.hooks.cnnjax")
ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "data"
# Documents outside ``docs``, and the pages that they become.
DOCUMENTS = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "experiments/README.md": "results.md",
    "benchmarks/README.md": "benchmarks.md",
}
# What there is no page of.
FILES = ("LICENSE",)
# Folders of translations of the course.
LANGUAGES = {"es": "Español", "pt": "Português"}
# Cells that notebooks hide, and what the site calls them.
HIDDEN = re.compile(r'^```python [^\n]*tags=\["solution"\][^\n]*\n(.*?^```)$', re.MULTILINE | re.DOTALL)
SOLUTION = {"course/es/": "Solución", "course/pt/": "Solução"}
# What stands behind the language of a block that tests do not run, and how the site says so.
NEEDS = {
    "config": "a file of its configs",
    "download": "downloads something",
    "gpu": "for a machine with GPUs",
    "keras": "needs Keras",
    "machines": "for several machines",
    "timm": "needs timm",
    "torchvision": "needs torchvision",
}
# Other words there are for Jupyter.
FENCE = re.compile(r"^( *```\w+) (\S.*)$", re.MULTILINE)
# Code in a cell of a table that is more than a name.
COMMAND = re.compile(r"<code>(?=[^<]* )")
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
# Pages whose tables take the place of the page's own contents.
WIDE = ("networks.md", "slides-to-code.md")
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)]*)?(?=\))")


def page_of(target: str) -> str | None:
    """Return the page that a path of the repository is, from the root of the site; None: it is none."""
    if target in DOCUMENTS:
        return DOCUMENTS[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else None


def for_site(text: str, source: str, page: str) -> str:
    """Return Markdown of the repository as the site has it: with links between its pages, and titles of blocks.

    Args:
      text: the document.
      source: where it is in the repository.
      page: where it is on the site.
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        if (other := page_of(target)) is None:
            return found[0]
        return found[1] + posixpath.relpath(other, posixpath.dirname(page) or ".") + (found[3] or "")

    for name in FILES:
        text = text.replace(f"[{name}]({name})", f"`{name}`")
    solution = next((title for folder, title in SOLUTION.items() if page.startswith(folder)), "Solution")
    text = HIDDEN.sub(
        lambda found: f'??? success "{solution}"\n\n' + textwrap.indent(f"```python\n{found[1]}", "    "), text
    )
    text = FENCE.sub(lambda found: f'{found[1]} title="{NEEDS[found[2]]}"' if found[2] in NEEDS else found[1], text)
    return LINK.sub(link, text)


def table_rows() -> dict[str, str]:
    """Return the rows of docs/networks.md by variant."""
    lines = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").splitlines()
    return {found[1]: line for line in lines if (found := re.match(r"\| `([^`]+)` \|", line))}


def families() -> dict[str, list[str]]:
    """Return the variants of each family."""
    found: dict[str, list[str]] = {}
    for name, variant in VARIANTS.items():
        found.setdefault(variant.info.family, []).append(name)
    return found


def weights_lines(names: list[str]) -> list[str]:
    """Return what is said of the weights that networks may have."""
    lines = []
    for name in names:
        for source in cnnjax.list_weights(f"{name}/*"):
            info = cnnjax.weights_info(source)
            measures = ", ".join(f"{key} {value}" for key, value in info.metrics.items())
            lines.append(f"| `{source}` | {measures} | {info.size_mib:.0f} MiB |")
    if lines:
        lines = ["| source | measures, % | size |", "|---|---|--:|", *lines, ""]
    by_names: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        others = tuple(source for source in cnnjax.pretrained.sources(name) if source not in ("torch", "cnnjax"))
        by_names.setdefault(others, []).append(name)
    for others, those in by_names.items():
        listed = ", ".join(f"`{name}`" for name in those)
        if others:
            lines.append(f"- Names of {', '.join(others)} are converted, in both directions, for {listed}.")
        else:
            lines.append(f"- No library publishes weights for {listed}; PyTorch state dicts with our names are read.")
    return lines


def recipe_lines(names: list[str]) -> list[str]:
    """Return the recipes that train networks."""
    lines = []
    for recipe in RECIPES.values():
        if recipe.config.model in names:
            published = f" {recipe.published}." if recipe.published else ""
            verified = f" Reached here: {recipe.verified}." if recipe.verified else " Not run in full here."
            lines.append(
                f"- `--recipe {recipe.name}` ({recipe.source}) trains `{recipe.config.model}`.{published}{verified}"
            )
    return lines or ["No recipe is named after these networks. [Training](../training.md) says how to choose flags."]


def golden_lines(names: list[str]) -> list[str]:
    """Return the files of a reference implementation's outputs that tests compare networks with."""
    lines = []
    for path in sorted(GOLDEN.glob("*.npz")):
        variant, _, source = path.stem.rpartition(".")
        network = variant.removesuffix("-short")
        if network in names:
            what = "PyTorch code written from the paper" if source == "torch" else source
            short = ", with fewer blocks" if variant != network else ""
            lines.append(f"- `{network}`{short}: {what}")
    return lines


def family_page(family: str, names: list[str], known: dict[str, Any], rows: dict[str, str]) -> str:
    """Return the page of a family in Markdown."""
    for name in names:
        if name not in rows:
            log.warning(f"docs/networks.md lacks {name}: python -m cnnjax.models --write docs/networks.md")
    head = [
        "| variant | parameters | multiply-adds, 10<sup>9</sup> | input | reference result | paper |",
        "|---|--:|--:|---|---|---|",
    ]
    example = names[0]
    return "\n".join(
        [
            f"# {known['title']}",
            "",
            known["idea"],
            "",
            "```text",
            *textwrap.wrap(known["diagram"], 72, subsequent_indent="    ", break_on_hyphens=False),
            "```",
            "",
            "```python",
            f'model = cnnjax.create_model("{example}")',
            "```",
            "",
            "## Variants",
            "",
            *head,
            *(rows[name] for name in names if name in rows),
            "",
            "Results are top-1 accuracy on ImageNet, in percent, where nothing else is said.",
            "",
            "## Weights",
            "",
            *weights_lines(names),
            "",
            "## Recipes",
            "",
            *recipe_lines(names),
            "",
            "## Tests",
            "",
            "The number of parameters of every variant is compared with the table, and the outputs, in evaluation and",
            "in training, with those of a reference implementation that has the same weights:",
            "",
            *golden_lines(names),
            "",
            "## Sources, differences and classes",
            "",
            f"::: cnnjax.models.{family}",
            "    options:",
            "      show_root_heading: false",
            "      show_root_toc_entry: false",
            "      members_order: source",
            "      heading_level: 3",
            "",
        ]
    )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of ``docs``."""
    known = tomllib.loads((ROOT / "docs" / "networks" / "families.toml").read_text(encoding="utf-8"))
    rows = table_rows()
    found = families()
    for family, names in found.items():
        if family not in known:
            log.warning(f"docs/networks/families.toml lacks {family}")
            continue
        text = family_page(family, names, known[family], rows)
        files.append(File.generated(config, f"networks/{family}.md", content=text))
    for family in known.keys() - found.keys():
        log.warning(f"docs/networks/families.toml has {family}, which is no family")
    for source, page in DOCUMENTS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=for_site(text, source, page)))
    return files


def course_pages() -> list[Any]:
    """Return the menu of the course: its page and notebooks, and those of each translation."""
    docs = ROOT / "docs"

    def listed(folder: Path, pattern: str) -> list[str]:
        return [path.relative_to(docs).as_posix() for path in sorted(folder.glob(pattern))]

    course = docs / "course"
    pages: list[Any] = [*listed(course, "*.md"), *listed(course / "notebooks", "*.md")]
    for folder, language in LANGUAGES.items():
        if translated := listed(course / folder, "*.md") + listed(course / folder / "notebooks", "*.md"):
            pages.append({language: translated})
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of families behind the table of all networks, and those of the course behind the claims."""
    for entry in config.nav or []:
        for pages in entry.values():
            if "networks.md" in pages:
                pages.extend(f"networks/{family}.md" for family in families())
            if "claims.md" in pages:
                pages.extend(course_pages())
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Link documents outside ``docs`` to their pages, and rows of the table of networks to their families.

    Pages with wide tables lose their contents at the side.
    """
    path = page.file.src_uri
    if posixpath.basename(path) in WIDE:
        page.meta["hide"] = ["toc"]
    if path == "networks.md":
        for name, variant in VARIANTS.items():
            markdown = markdown.replace(f"| `{name}` |", f"| [`{name}`](networks/{variant.info.family}.md) |")
    if path in DOCUMENTS.values():
        return markdown
    return for_site(markdown, f"docs/{path}", path)


def on_page_content(html: str, **_: Any) -> str:
    """Mark commands in tables, which may be wrapped where names may not."""
    return CELL.sub(lambda cell: COMMAND.sub('<code class="command">', cell.group()), html)
