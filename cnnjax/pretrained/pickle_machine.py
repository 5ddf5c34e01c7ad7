"""Follow the pickles that PyTorch writes without executing anything that they say.

A pickle is a program for a small machine that may call any function of any module. Here it is read instruction by
instruction, and only those that build dictionaries, lists, numbers, texts and tensors have a meaning. Whatever else it
asks for is noted by name and never looked up: plain objects that training scripts keep beside the weights (`HARMLESS`)
are left out, and a file that asks for anything else is refused, with the entry.
"""

from __future__ import annotations

import dataclasses
import pickletools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from cnnjax.pretrained.arrays import WeightsFileError, quoted, shortened

# Storage classes of PyTorch by the type of their elements.
STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# Plain objects of training scripts, as "module name". What they are made of is left out with them.
HARMLESS = re.compile(
    r"""
      argparse \s Namespace
    | types \s SimpleNamespace
    | collections \s (Counter | deque)
    | datetime \s (date | datetime | time | timedelta | timezone)
    | decimal \s Decimal | fractions \s Fraction | uuid \s UUID
    | pathlib (\._local)? \s (Pure)? (Posix | Windows)? Path
    | (builtins | __builtin__) \s (bool | bytearray | bytes | complex | dict | float | frozenset | int | list | long
                                  | object | range | set | slice | str | tuple | unicode | xrange)
    | _codecs \s encode | copyreg \s _reconstructor | copy_reg \s _reconstructor
    | numpy \s (dtype | ndarray | bool_? | u?int(8 | 16 | 32 | 64) | float(16 | 32 | 64) | str_)
    | numpy\.dtypes \s \w+
    | numpy\.(core | _core)\.multiarray \s (scalar | _reconstruct) | numpy\._core\.numeric \s _frombuffer
    | torch \s (device | \w+Storage | bool | u?int\d+ | b?float\w+ | complex\d+ | strided | contiguous_format
                | channels_last | \w*Tensor)
    | torch\.cuda \s \w+(Storage | Tensor)
    | torch\.storage \s \w+Storage
    | torch\.torch_version \s TorchVersion
    | torch\.nn\.parameter \s (Parameter | Buffer)
    """,
    re.VERBOSE,
)
# A program longer than this is no list of weights: the largest networks take some tens of thousands of instructions.
MAX_INSTRUCTIONS = 5_000_000


@dataclasses.dataclass(frozen=True)
class Name:
    """A function or class that the program names; nothing is ever imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return shortened(f"{self.module}.{self.name}")


@dataclasses.dataclass(frozen=True, eq=False)
class Unread:
    """What the program makes of something that is no tensor and no container; nothing is ever made of it.

    Attributes:
      what: it asks for.
      harmless: it is a plain object, and may be left out.
      parts: what the program gives to it.
    """

    what: str
    harmless: bool
    parts: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Storage:
    """A block of elements that tensors are views of."""

    key: str
    dtype: np.dtype[Any]
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def run_pickle(path: Path, file: BinaryIO | Any) -> Any:
    """Read one pickle from ``file`` and return the value that it describes.

    Raises:
      WeightsFileError: it asks for something other than tensors, containers and plain objects; or it is damaged.
    """
    machine = Machine()
    try:
        with warnings.catch_warnings():
            # Damaged texts may end in half an escape sequence.
            warnings.simplefilter("ignore")
            value = _follow(path, file, machine)
    except WeightsFileError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError) as error:
        raise WeightsFileError(f"{path} is damaged, truncated, or not a file that torch.save wrote") from error
    if machine.refused:
        raise WeightsFileError(
            f"{path} is refused: it asks for {machine.refused[0].what}{_entry_of(machine.refused[0], value)}, which is "
            "neither a tensor nor a container of tensors. Files that hold more than weights could run any program; "
            "save model.state_dict() alone, where the file was made"
        )
    return value


def _follow(path: Path, file: BinaryIO | Any, machine: Machine) -> Any:
    instructions: Any = pickletools.genops(file)
    for number, (opcode, argument, _) in enumerate(instructions):
        if number > MAX_INSTRUCTIONS:
            raise WeightsFileError(f"{path} is refused: its description of the weights is too long")
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.do(opcode.name, argument)
    raise WeightsFileError(f"{path} is truncated; download it again")


def _entry_of(wanted: Unread, value: Any) -> str:
    """Return in which entry of a dictionary something is, in words."""
    if not isinstance(value, dict):
        return ""
    for key, item in value.items():
        seen: set[int] = set()
        rest = [item]
        while rest:
            part = rest.pop()
            if part is wanted:
                return f" in the entry {quoted(key)}"
            if isinstance(part, dict | list | tuple | Unread) and id(part) not in seen:
                seen.add(id(part))
                inner = part.parts if isinstance(part, Unread) else part
                rest += [*part, *part.values()] if isinstance(part, dict) else inner
    return ""


class Machine:
    """What a pickle is a program for, but for what it could call.

    Attributes:
      stack: values since the last mark.
      refused: what the program asks for and is no plain object, in order.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.refused: list[Unread] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if name in VALUES:
            stack.append(VALUES[name](argument))
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self._below.append(stack)
            self.stack = []
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[int(argument)])
        elif name == "POP":
            if stack:
                stack.pop()
            else:
                self._pop_mark()
        elif name == "POP_MARK":
            self._pop_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
            values = self._pop_mark()
            make: Any = {"TUPLE": tuple, "LIST": list, "DICT": _dictionary, "FROZENSET": self._set}[name]
            self.stack.append(make(values))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            if len(stack) < count:
                raise IndexError(name)
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "EMPTY_SET":
            stack.append(self._set([]))
        elif name in ("APPENDS", "APPEND", "ADDITEMS"):
            values = [stack.pop()] if name == "APPEND" else self._pop_mark()
            target = self.stack[-1]
            (target.parts if isinstance(target, Unread) else _expect(target, list)).extend(values)
        elif name in ("SETITEMS", "SETITEM"):
            values = self._pop_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            target = self.stack[-1]
            if isinstance(target, Unread):
                target.parts.extend(values)
            else:
                _expect(target, dict).update(_dictionary(values))
        elif name == "GLOBAL":
            stack.append(self._named(Name(*argument.split(" ", 1))))
        elif name == "STACK_GLOBAL":
            attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
            stack.append(self._named(Name(module, attribute)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = _expect(stack.pop(), tuple), stack.pop()
            stack.append(self._call(function, arguments))
        elif name == "NEWOBJ_EX":
            keywords, arguments, function = stack.pop(), _expect(stack.pop(), tuple), stack.pop()
            stack.append(self._call(function, (*arguments, keywords)))
        elif name in ("INST", "OBJ"):
            values = self._pop_mark()
            function = self._named(Name(*argument.split(" ", 1))) if name == "INST" else values.pop(0)
            self.stack.append(self._call(function, tuple(values)))
        elif name == "BUILD":
            # The attributes of a dictionary, such as the versions that PyTorch notes, mean nothing here.
            state = stack.pop()
            if isinstance(stack[-1], Unread):
                stack[-1].parts.append(state)
            else:
                _expect(stack[-1], dict)
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        else:
            stack.append(self._refuse(f"the instruction {name}"))

    def _pop_mark(self) -> list[Any]:
        values, self.stack = self.stack, self._below.pop()
        return values

    def _refuse(self, what: str, parts: Iterable[Any] = ()) -> Unread:
        self.refused.append(Unread(what, False, list(parts)))
        return self.refused[-1]

    def _set(self, values: list[Any]) -> Unread:
        return Unread("a set", True, values)

    def _named(self, name: Name) -> Name | Unread:
        is_storage = name.module in ("torch", "torch.cuda") and name.name in STORAGES
        if is_storage or name in (*DICTIONARIES, TENSOR, PARAMETER, SIZE):
            return name
        if HARMLESS.fullmatch(f"{name.module} {name.name}"):
            return Unread(str(name), True)
        return self._refuse(str(name))

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(function, Unread):
            return Unread(function.what, function.harmless, [function, *arguments])
        if function == ORDERED_DICT:
            return dict(*(_pairs(argument) for argument in arguments))
        if function == DEFAULT_DICT:
            return dict(*(_pairs(argument) for argument in arguments[1:]))
        if function == SIZE:
            return _expect(arguments[0], tuple)
        if function == TENSOR:
            storage, offset, shape, strides, *_ = arguments
            if isinstance(storage, Unread):
                return Unread(f"a tensor of {storage.what}", storage.harmless, [storage])
            numbers = [offset, *_expect(shape, tuple), *_expect(strides, tuple)]
            # Whatever is larger is no place in a file.
            if len(shape) != len(strides) or not all(isinstance(n, int) and 0 <= n < 2**63 for n in numbers):
                raise ValueError("a tensor's shape")
            return Tensor(_expect(storage, Storage), offset, shape, strides)
        if function == PARAMETER:
            return arguments[0] if isinstance(arguments[0], Unread) else _expect(arguments[0], Tensor)
        return self._refuse(str(function) if isinstance(function, Name) else "a call of something else", arguments)

    def _storage(self, described: Any) -> Storage | Unread:
        """Return the storage that a persistent id describes; its elements are elsewhere in the file."""
        kind, name, key, _, size, *rest = _expect(described, tuple)
        if isinstance(name, Unread):
            return Unread(name.what, name.harmless, [name])
        if kind != "storage" or not isinstance(name, Name) or name.name not in STORAGES or any(rest):
            raise ValueError("a storage")
        if not isinstance(size, int) or size < 0:
            raise ValueError("a storage's size")
        return Storage(_expect(key, str), np.dtype(STORAGES[name.name]), size)


VALUES: Mapping[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
} | dict.fromkeys(
    (
        *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ),
    lambda argument: argument,
)

ORDERED_DICT = Name("collections", "OrderedDict")
DEFAULT_DICT = Name("collections", "defaultdict")
DICTIONARIES = (ORDERED_DICT, DEFAULT_DICT)
TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Name("torch._utils", "_rebuild_parameter")
SIZE = Name("torch", "Size")


def _dictionary(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _pairs(argument: Any) -> list[tuple[Any, Any]]:
    return list(argument.items()) if isinstance(argument, dict) else [(k, v) for k, v in _expect(argument, list)]


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected")
    return value
