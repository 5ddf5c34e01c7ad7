"""Flags of scripts: fields of flat dataclasses, which ``--help`` shows in groups."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from cnnjax.places import local_path, shown

Config = TypeVar("Config")
# What a script's own flags are shown under, beside those of groups.
OWN = "own"


class ConfigError(ValueError):
    """A config that cannot be run."""


class Flags:
    """What a script is asked to do, of which a folder of files comes: a frozen dataclass, each field a flag."""

    workdir: Path | None

    def require(self, checks: Iterable[tuple[str, bool, str]]) -> None:
        """Raise ConfigError for the first of (field, is good, what is expected) that is not good."""
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} must be {expected}, got {getattr(self, name)}")

    @property
    def default_directory(self) -> str:
        """Folder of the files in runs/ unless ``workdir`` is given."""
        raise NotImplementedError

    @property
    def run_directory(self) -> Path:
        """Folder of the files."""
        return (
            local_path(self.workdir, "workdir")
            if self.workdir
            else Path("runs") / self.default_directory.replace("/", "-").replace(":", "-")
        )

    @property
    def free_fields(self) -> Set[str]:
        """Flags that may change between two parts of the run."""
        return {"workdir", "data_dir"}

    def lengthens(self, saved: Mapping[str, Any]) -> bool:
        """Return whether this is the run that `normal` gave, only longer, with the same steps until then."""
        return False

    def way_out(self, differing: Set[str]) -> str:
        """Return what to do about a folder of a run that these flags differ from."""
        return "give the same flags to go on with it, or another --workdir to start afresh"

    @classmethod
    def normal(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flags of a run of any version as this one has them, from what `to_json` gave.

        Flags that there were not yet did what is their default now; those that there are no more are left out.
        """
        assert dataclasses.is_dataclass(cls)
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        known = {name: saved.get(name, _plain(default)) for name, default in fields.items()}
        return {name: value for name, value in known.items() if value is not dataclasses.MISSING}

    def to_json(self) -> dict[str, Any]:
        """Return the flags as JSON holds them, in the order of their groups."""
        names = [name for group in groups_of(type(self)).values() for name in group]
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    """Return a field's value as JSON gives it back."""
    if isinstance(value, Path):
        return shown(value)
    return list(value) if isinstance(value, tuple) else value


def groups_of(config: type[Any]) -> dict[str, list[str]]:
    """Return the names of a config's fields by the group that they belong to.

    A group is a dataclass with a ``title`` that the config inherits from, or a class derived from one; a field belongs
    to the group that declared it first.

    Args:
      config: a dataclass.
    """
    found: dict[str, list[str]] = {}
    for field in dataclasses.fields(config):
        bases = [base for base in config.__mro__ if base is not Flags]
        first = [base for base in bases if field.name in inspect.get_annotations(base)][-1]
        title = OWN if issubclass(first, Flags) else getattr(first, "title", OWN)
        found.setdefault(title, []).append(field.name)
    return found


def helps_of(config: type[Any]) -> dict[str, str]:
    """Return the texts of a dataclass's fields by name, those of its own before inherited ones.

    A text stands under its field, or in the field's metadata as ``help``.
    """
    found: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body: list[Any] = definition.body  # type: ignore[attr-defined]
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    told = {field.name: field.metadata["help"] for field in dataclasses.fields(config) if "help" in field.metadata}
    return told | found


def parse(
    config: type[Config],
    arguments: Sequence[str] | None,
    description: str | None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Return the config of a command line.

    Args:
      config: a dataclass, each field a flag.
      arguments: without the program's name; None for those of this process.
      description: shown by ``--help``.
      defaults: instead of the config's own ones.
    Raises:
      ConfigError: an impossible value.
      SystemExit: an unknown flag or a value of another type (explained on stderr, exit code 2), or ``--help``.
    """
    made = tyro.cli(_reader(config, defaults), args=arguments, description=description, config=_FLAT)
    return made()


def parse_command(configs: Mapping[str, type[Any]], arguments: Sequence[str] | None, description: str | None) -> Any:
    """Return the config of the command that a command line begins with; see `parse`.

    Args:
      configs: a dataclass for each command.
      arguments, description: as of `parse`.
    """
    readers = {name: _reader(config) for name, config in configs.items()}
    return tyro.extras.subcommand_cli_from_dict(readers, args=arguments, description=description, config=_FLAT)()


# Names of groups are titles alone.
_FLAT: Any = (tyro.conf.OmitArgPrefixes,)


def _reader(config: type[Config], defaults: Mapping[str, Any] | None = None) -> Callable[..., Callable[[], Config]]:
    """Return a function whose parameters Tyro reads, one for each group; its result makes the config.

    What the config refuses is told by the script, as every other error, and not by Tyro.
    """
    helps, types = helps_of(config), get_type_hints(config)
    own = {field.name: field.default for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    start = own | dict(defaults or {})
    parameters = []
    for title, names in groups_of(config).items():
        columns: list[Any] = []
        for name in names:
            kind: Any = Annotated[types[name], tyro.conf.arg(help=helps.get(name))]
            columns.append((name, kind, dataclasses.field(default=start[name])))
        group = dataclasses.make_dataclass(title, columns, kw_only=True, namespace={"__doc__": ""})
        shown: Any = Annotated[group, tyro.conf.arg(name="" if title == OWN else title, help="")]
        parameters.append(inspect.Parameter(title, inspect.Parameter.KEYWORD_ONLY, annotation=shown))

    def read(**groups: Any) -> Callable[[], Config]:
        flags = {name: value for group in groups.values() for name, value in vars(group).items()}
        return functools.partial(config, **flags)

    read.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    read.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    read.__doc__ = config.__doc__
    return read
