"""The language in which a family says how another library names its layers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from cnnjax.pretrained.layouts import Layout

# What separates the parts of a module's name and the module from its array, in each source's names.
PART_SEPARATOR = MappingProxyType(
    {"torchvision": ".", "timm": ".", "torch": ".", "keras": "_", "lite_pytorch": ".", "scico": "/", "cnnjax": "/"}
)
LEAF_SEPARATOR = MappingProxyType(
    {"torchvision": ".", "timm": ".", "torch": ".", "keras": "/", "lite_pytorch": ".", "scico": "/", "cnnjax": "/"}
)
SOURCES = tuple(PART_SEPARATOR)
# Those whose names are our paths, for every network.
OWN = ("torch", "cnnjax")


@dataclasses.dataclass(frozen=True)
class Absent:
    """An array of ours that the source does not store because it is always ``value`` there.

    For example the scale of a Keras batch normalisation made with ``scale=False``: ``Absent(1.0)``.
    """

    value: float


@dataclasses.dataclass(frozen=True)
class Rules:
    """How one source names the arrays of one variant, and where it lays them out in a way that shapes do not tell.

    A rule is a pattern of our path and the text that stands for it there. A path such as
    ``stage1/block2/conv3/kernel`` is read from the left: the first rule in the table whose pattern matches one or more
    whole parts at the current place gives its text, and reading goes on behind them. Texts are joined with the
    source's separator ("." in PyTorch, "_" in Keras); an empty text leaves the parts out. The last part (the array:
    kernel, bias, scale, mean, var) needs no rule: it is translated by the kind of its layer (to weight, running_mean,
    gamma, ...). A rule may take it in, and then gives the end of the source's name too.

    Patterns are regular expressions in which ``#`` stands for a number. The text is a `str.format` template that gets
    the pattern's groups in order; numbers take an offset, or ``a`` for a letter:

    >>> resnet = Rules({"stage#/block#": "layer{}.{:-1}", "conv#": "conv{}"})
    >>> resnet.name("stage1/block2/conv3/kernel", {"kernel": "weight"}, "torchvision")
    'layer1.1.conv3.weight'
    >>> efficientnet = Rules({"stage#/block#": "block{}{:a}", "expand_conv": "expand_conv"})
    >>> efficientnet.name("stage4/block2/expand_conv/kernel", {}, "keras")
    'block4b_expand_conv/kernel'

    Where the arithmetic is more than an offset (a running index over all blocks, a table of layer positions), a
    function of the groups stands in the place of the template:
    ``lambda stage, block: f"features.{start[stage] + block}"``. The sources `OWN` need no names: parts that no rule
    matches stay as they are there.

    Attributes:
      names: pattern -> template, function or `Absent`; earlier ones win.
      layouts: pattern of our whole path (array included) -> `Layout`, for arrays that shapes and layers do not settle:
        the first dense layer after a flatten (`Flatten`), a 1x1 convolution that is a dense layer there.
      constants: what the source stores besides and the network does not need; ignored when read, written as it is.
    """

    names: Mapping[str, str | Callable[..., str] | Absent] = dataclasses.field(default_factory=dict)
    layouts: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def name(self, path: str, leaves: Mapping[str, str], source: str) -> str | Absent:
        """Return the source's name of the array at ``path``.

        Args:
          path: ours, with slashes, without the collection.
          leaves: the array's name by ours, for the kind of its layer.
          source: one of `SOURCES`.
        Raises:
          KeyError: no rule matches some part of the path.
        """
        texts: list[str] = []
        rest = path
        while "/" in rest or (rest and self._match(rest) is not None):
            found = self._match(rest)
            if found is None:
                if source not in OWN:
                    raise KeyError(f"no rule for {rest.rpartition('/')[0]!r} in {path} ({source})")
                text, _, rest = rest.partition("/")
                texts.append(text)
                continue
            match, template = found
            if isinstance(template, Absent):
                return template
            groups = [_Number(g) if g and g.isdecimal() else g for g in match.groups()]
            text = template(*groups) if callable(template) else template.format(*groups)
            if text:
                texts.append(text)
            rest = rest[match.end() :].removeprefix("/")
        name = PART_SEPARATOR[source].join(texts)
        if rest:
            name = LEAF_SEPARATOR[source].join(part for part in (name, leaves.get(rest, rest)) if part)
        return name

    def layout(self, path: str) -> Layout | None:
        """Return the declared layout of the array at ``path``, None where there is none."""
        for pattern, layout in self.layouts.items():
            if re.fullmatch(_regex(pattern), path):
                return layout
        return None

    def _match(self, rest: str) -> tuple[re.Match[str], str | Callable[..., str] | Absent] | None:
        for pattern, template in self.names.items():
            if match := re.match(rf"(?:{_regex(pattern)})(?=/|$)", rest):
                return match, template
        return None


def _regex(pattern: str) -> str:
    return pattern.replace("#", r"(\d+)")


class _Number(int):
    """A number of a path, which templates may shift (``{:-1}``) or write as a letter (``{:a}``)."""

    def __format__(self, spec: str) -> str:
        if spec == "a":
            return chr(ord("a") - 1 + self)
        return str(self + int(spec or 0))
