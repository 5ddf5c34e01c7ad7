"""Read ``.pth`` and ``.pt`` files without PyTorch and without executing anything that they say.

PyTorch saves a pickle, a program for a small machine that may call any function of any module. Here the program is
read instruction by instruction, and only those that build dictionaries, lists, numbers, texts and tensors have a
meaning. Whatever else it asks for is noted by name and never looked up: plain objects that training scripts keep
beside the weights (`HARMLESS`) are left out, and a file that asks for anything else is refused, with the entry.
"""

from __future__ import annotations

import dataclasses
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from cnnjax.pretrained.arrays import (
    FileArray,
    WeightsFileError,
    check_shape,
    file_size,
    quoted,
    shortened,
    stored_offset,
)

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
# What a file before PyTorch 1.6 starts with, and the version of its format.
MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
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
# Entries of all dictionaries together, which may hold one another more than once.
MAX_ENTRIES = 1_000_000


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


def read_torch(path: Path) -> dict[str, Any]:
    """Return the arrays that ``torch.save`` wrote, unread: nested dictionaries as in the file, without all else.

    Files of all versions of PyTorch are read. Numbers, texts and the plain objects of `HARMLESS` are left out.

    Raises:
      WeightsFileError: the file is damaged or truncated; it asks for anything but tensors, containers and plain
        objects, such as a whole model (save ``model.state_dict()``); or it holds no state dict.
    """
    file_size(path)
    if zipfile.is_zipfile(path):
        value, locate = _read_archive(path)
    else:
        value, locate = _read_legacy(path)
    if not isinstance(value, dict):
        raise WeightsFileError(f"{path} holds no state dict but {_describe(value)}; save model.state_dict()")
    found = _tree(path, value, locate)
    if not found:
        if any(isinstance(item, dict) for item in value.values()) or not value:
            raise WeightsFileError(f"{path} holds a dictionary without tensors")
        keys = shortened(", ".join(map(str, list(value)[:10])))
        raise WeightsFileError(f"{path} holds no state dict; its keys are {keys}")
    return found


# Where a storage lies: offset of its bytes, their checksum if known, and the order of bytes, as NumPy writes it.
Locate = Callable[[Storage], tuple[int, int | None, str]]


def _read_archive(path: Path) -> tuple[Any, Locate]:
    """Read the format since PyTorch 1.6: a zip archive with a pickle and one uncompressed entry a storage."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if any(name.endswith("/constants.pkl") for name in entries):
                raise WeightsFileError(f"{path} holds a TorchScript program; save the model's state_dict() instead")
            pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
            # What is stored as it is cannot be larger than the file.
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries.values())
            if len(pickles) != 1 or not plain:
                raise WeightsFileError(f"{path} is a zip archive, but none that torch.save wrote")
            root = pickles[0].removesuffix("data.pkl")
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
            with archive.open(pickles[0]) as file:
                value = _run(path, file)
    except WeightsFileError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise WeightsFileError(f"{path} is damaged or truncated: {error}; fetch it again") from error

    def locate(storage: Storage) -> tuple[int, int | None, str]:
        entry = entries.get(f"{root}data/{storage.key}")
        expected = storage.size * storage.dtype.itemsize
        if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != expected:
            raise WeightsFileError(
                f"{path} is damaged: storage {quoted(storage.key)} of {expected:,} bytes is not there"
            )
        return stored_offset(path, entry), entry.CRC, ">" if order == b"big" else "<"

    return value, locate


def _read_legacy(path: Path) -> tuple[Any, Locate]:
    """Read the format before PyTorch 1.6: five pickles one after the other, then the storages."""
    places: dict[str, tuple[int, int]] = {}
    size = file_size(path)
    if size == 0:
        raise WeightsFileError(f"{path} is empty; fetch it again")
    # A mapped file gives no more bytes than it has, whatever length is asked for.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if _run(path, file) != MAGIC:
            raise WeightsFileError(f"{path} is not a file that torch.save wrote")
        protocol, system, value = _run(path, file), _run(path, file), _run(path, file)
        keys = _run(path, file)
        if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
            raise WeightsFileError(f"{path} is not a file that torch.save wrote, or damaged")
        order = "<" if system.get("little_endian", True) else ">"
        storages = {storage.key: storage for storage in _storages(value)}
        for key in keys:
            count = int.from_bytes(file.read(8), "little" if order == "<" else "big", signed=True)
            storage = storages.get(key)
            if storage is None or count != storage.size:
                raise WeightsFileError(f"{path} is damaged or truncated: storage {quoted(key)} has {count:,} elements")
            places[key] = file.tell(), count
            if count * storage.dtype.itemsize > size - file.tell():
                raise WeightsFileError(f"{path} has {size:,} bytes and is truncated; download it again")
            file.seek(count * storage.dtype.itemsize, 1)

    def locate(storage: Storage) -> tuple[int, int | None, str]:
        if storage.key not in places:
            raise WeightsFileError(f"{path} is damaged: storage {quoted(storage.key)} is not there")
        return places[storage.key][0], None, order

    return value, locate


def _storages(value: Any) -> Iterator[Storage]:
    """Return the storages of all tensors in nested containers."""
    seen: set[int] = set()
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, Tensor):
            yield item.storage
        elif isinstance(item, dict | list | tuple | Unread) and id(item) not in seen:
            seen.add(id(item))
            inner = item.parts if isinstance(item, Unread) else item
            rest.extend(item.values() if isinstance(item, dict) else inner)


def _file_array(path: Path, name: str, tensor: Tensor, locate: Locate) -> FileArray:
    storage = tensor.storage
    check_shape(path, name, tensor.shape)
    # The last element that the view reaches, and as many elements as the storage has at most: no view repeats them.
    last = tensor.offset + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=True))
    count = int(np.prod(tensor.shape, dtype=object))
    if count > storage.size or (count and last >= storage.size):
        raise WeightsFileError(
            f"{path} is damaged: tensor {quoted(name)} of shape {tensor.shape} reaches out of its storage"
        )
    offset, checksum, order = locate(storage)
    dtype = storage.dtype.newbyteorder(">") if order == ">" and storage.dtype.itemsize > 1 else storage.dtype
    return FileArray(path, offset, tensor.shape, dtype, tensor.offset, tensor.strides, storage.size, checksum)


def _tree(path: Path, value: dict[Any, Any], locate: Locate) -> dict[str, Any]:
    """Return the tensors in nested dictionaries; those without any are left out."""
    root: dict[str, Any] = {}
    rest: list[tuple[dict[Any, Any], tuple[str, ...]]] = [(value, ())]
    entries = 0
    while rest:
        container, place = rest.pop()
        for key, item in container.items():
            entries += 1
            if entries > MAX_ENTRIES:
                raise WeightsFileError(f"{path} is refused: its description of the weights is too long")
            if isinstance(item, dict):
                rest.append((item, (*place, str(key))))
            elif isinstance(item, Tensor):
                inner = root
                for part in place:
                    inner = inner.setdefault(part, {})
                inner[str(key)] = _file_array(path, str(key), item, locate)
    return root


def _describe(value: Any) -> str:
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _run(path: Path, file: BinaryIO | Any) -> Any:
    """Read one pickle from ``file`` and return the value that it describes.

    Raises:
      WeightsFileError: it asks for something other than tensors, containers and plain objects; or it is damaged.
    """
    machine = _Machine()
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


def _follow(path: Path, file: BinaryIO | Any, machine: _Machine) -> Any:
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


class _Machine:
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
