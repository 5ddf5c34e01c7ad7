"""Docstrings as Markdown: their examples become blocks of code, and their indices do not become links."""

from __future__ import annotations

import re
from typing import Any

import griffe

# From a line with a prompt to the next blank line.
EXAMPLE = re.compile(r"^( *)>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


def as_markdown(text: str) -> str:
    """Return a docstring of this package as Markdown."""

    def fenced(found: re.Match[str]) -> str:
        return f"{found[1]}```pycon\n{found[0]}\n{found[1]}```"

    parts = re.split(r"(```.*?```|`[^`\n]+`)", EXAMPLE.sub(fenced, text), flags=re.DOTALL)
    # What was split at is code, and stays.
    parts[::2] = [part.replace("][", "]\\[") for part in parts[::2]]
    return "".join(parts)


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of ``obj``."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
