"""Find a network's arrays among all that a file holds: by their names, whatever stands before them.

What training scripts, data parallelism, compilation and wrappers put around a network is left out here, for all formats
of files: ``state_dict`` and ``model`` around all, ``module.``, ``_orig_mod.``, ``model.``, ``backbone.`` before names,
optimizers and losses beside them. No list of such words is needed: what stands before most of the expected names is
where the network is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# What wrappers put into names, anywhere: data parallelism, compilation, sharding, checkpointing.
TRANSPARENT = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# What moving averages of the weights are kept under: those of scripts, of MoCo and of DINO.
AVERAGES = re.compile(r"(\w+_)?ema(_\w+)?|averaged?_model|encoder_k|momentum_encoder|teacher")
# What wrappers call the network inside, to be left out of messages about weights that do not fit.
INNER = frozenset({"model", "network", "net", "backbone", "encoder"})
# Layers that Keras names by numbers which go on from network to network of one session.
NUMBERED = re.compile(
    r"(conv2d|depthwise_conv2d|separable_conv2d|conv2d_transpose|dense|batch_normalization|layer_normalization"
    r"|normalization)(?:_(\d+))?"
)
# Arrays without a name of their own, which Keras numbers alike.
UNNAMED = re.compile(r"variable(_\d+)?")


class Place(NamedTuple):
    """Where a network is among the arrays of a file.

    Attributes:
      source: whose names its arrays have.
      prefix: what stands before them.
      found: the part of the expected names that is there.
    """

    source: str
    prefix: str
    found: float


def network_arrays(
    content: Mapping[str, Any], expected: Mapping[str, Collection[str]], entry: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the source whose names fit best, and the arrays of the network under these names.

    Moving averages are taken if ``entry`` says so, or if there is nothing else. What is outside of where the network
    is, such as an optimizer, is left out; what is within and not expected is not.

    Args:
      content: arrays by name, perhaps in nested dictionaries.
      expected: the names that the network's arrays have, by source.
      entry: of the file, or what stands before the names, such as "model_ema".
    Raises:
      ValueError: there is no such entry; or several hold the network, and ``entry`` is None.
    """
    flat = _flat(content)
    places = _places(flat, expected)
    averages = {place for place in places if _is_average(place.prefix)}
    if entry is not None:
        wanted = f".{_plain(entry)}."
        chosen = [place for place in places if wanted in f".{place.prefix}".replace("/", ".")]
        if not chosen:
            raise ValueError(f"the weights have no entry {entry!r} that holds the network; {_entries(places)}")
    else:
        chosen = [place for place in places if place not in averages] or list(places)
    if not chosen:
        return next(iter(expected)), _likeliest(content)
    best = max(chosen, key=lambda place: (place.found, _share(place, flat, expected), -len(place.prefix)))
    rivals = {place.prefix for place in chosen if place.found == best.found}
    if len(rivals) > 1 and "" not in rivals:
        raise ValueError(f"the weights hold the network more than once; {_entries(chosen)}")
    prefix = "" if "" in rivals else best.prefix
    # Another network inside, such as averages beside the parameters, is outside of this one.
    inside = tuple(place.prefix for place in places if place.prefix.startswith(prefix) and place.prefix != prefix)
    found = {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
    names = expected[best.source]
    return best.source, {
        name: value for name, value in found.items() if name in names or not f"{prefix}{name}".startswith(inside)
    }


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays by one name, without what wrappers put into it."""
    full = {".".join((*place, name)): value for place, name, value in _walk(content)}
    names = [_plain(name) for name in full]
    # Where that would make one name of two, the parts mean something.
    return dict(zip(names, full.values(), strict=True)) if len(set(names)) == len(full) else full


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in TRANSPARENT)


def _walk(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    rest: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), content)]
    while rest:
        place, container = rest.pop()
        for name, value in container.items():
            if isinstance(value, Mapping):
                rest.append(((*place, name), value))
            else:
                yield place, name, value


def _places(flat: Iterable[str], expected: Mapping[str, Collection[str]]) -> list[Place]:
    """Return where at least half of the expected names are, and the start of names, if any is there."""
    places = []
    for source, names in expected.items():
        counts: Counter[str] = Counter()
        for name in flat:
            for start in (0, *(match.end() for match in re.finditer(r"[./]", name))):
                if name[start:] in names:
                    counts[name[:start]] += 1
        places += [
            Place(source, prefix, count / len(names))
            for prefix, count in counts.items()
            if not prefix or 2 * count >= len(names)
        ]
    return places


def _share(place: Place, flat: Mapping[str, Any], expected: Mapping[str, Collection[str]]) -> float:
    """Return the part of the arrays there that is expected."""
    return place.found * len(expected[place.source]) / sum(name.startswith(place.prefix) for name in flat)


def _is_average(prefix: str) -> bool:
    return any(AVERAGES.fullmatch(part) for part in re.split(r"[./]", prefix))


def _entries(places: Iterable[Place]) -> str:
    """Return in words what ``entry`` may be."""
    prefixes = sorted({place.prefix.rstrip("./") for place in places if place.prefix})
    if not prefixes:
        return "they hold one network, not in an entry: leave entry out"
    return f"give one of these: {', '.join(f'entry={prefix!r}' for prefix in prefixes)}"


def _likeliest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of what is most like a network, where none of the expected names is."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for place, name, value in _walk(content):
        groups.setdefault(place, {})[name] = value
    if not groups:
        return {}
    flat = _flat(max(groups.items(), key=lambda item: (not _is_average(".".join(item[0])), len(item[1])))[1])
    while len(starts := {name.partition(".")[0] for name in flat}) == 1 and starts <= INNER:
        flat = {name.partition(".")[2]: value for name, value in flat.items()}
    return flat


def renumbered(content: Mapping[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    """Return arrays of Keras with the numbers that its automatic names have in a session's first network.

    Args:
      content: arrays by name.
      expected: the names in a session's first network.
    """
    expected = list(expected)
    wanted = _numbers(expected)
    given = _numbers(content)
    renamed: dict[str, str] = {}
    for (scope, kind), numbers in given.items():
        first = wanted.get(("", kind), [])
        if len(first) == len(numbers):
            renamed |= {
                _numbered(scope, kind, old): _numbered(scope, kind, new)
                for old, new in zip(numbers, first, strict=True)
            }
    ours, theirs = _variables(expected), _variables(content)
    leaves = dict(zip(theirs, ours, strict=True)) if len(ours) == len(theirs) else {}
    result = {}
    for name, value in content.items():
        layer, _, leaf = name.rpartition("/")
        result[f"{renamed.get(layer, layer)}/{leaves.get(leaf, leaf)}"] = value
    return result


def _variables(names: Iterable[str]) -> list[str]:
    """Return the names of arrays that Keras numbers over all layers, in the order of their numbers."""
    found = {leaf for name in names if UNNAMED.fullmatch(leaf := name.rpartition("/")[2])}
    return sorted(found, key=lambda leaf: (len(leaf), leaf))


def _numbers(names: Iterable[str]) -> dict[tuple[str, str], list[int]]:
    """Return the sorted numbers of layers by the scope and kind that they have in their names."""
    found: dict[tuple[str, str], set[int]] = {}
    for name in names:
        scope, _, layer = name.rpartition("/")[0].rpartition("/")
        if match := NUMBERED.fullmatch(layer):
            found.setdefault((scope, match[1]), set()).add(int(match[2] or 0))
    return {key: sorted(numbers) for key, numbers in found.items()}


def _numbered(scope: str, kind: str, number: int) -> str:
    layer = f"{kind}_{number}" if number else kind
    return f"{scope}/{layer}" if scope else layer
