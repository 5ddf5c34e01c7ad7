"""Read ``.pth`` and ``.pt`` files without PyTorch and without executing anything that they say.

PyTorch saves a pickle, a program for a small machine that may call any function of any module. Here the program is
read instruction by instruction, and only those that build dictionaries, lists, numbers, texts and tensors have a
meaning; a file that asks for anything else is refused, with the name of what it asked for.
"""

from __future__ import annotations

import dataclasses
import mmap
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from cnnjax.pretrained.arrays import FileArray, WeightsFileError, file_size, stored_offset

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
# Where training scripts keep the weights among other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "ema_state_dict", "state_dict_ema", "params")
# A program longer than this is no list of weights: the largest networks take some tens of thousands of instructions.
MAX_INSTRUCTIONS = 5_000_000


@dataclasses.dataclass(frozen=True)
class Name:
    """A function or class that the program names; nothing is ever imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


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


def read_torch(path: Path) -> dict[str, FileArray]:
    """Return the arrays of a state dict that ``torch.save`` wrote, by name, unread.

    Files of all versions of PyTorch are read. Of a dictionary with other things around the state dict (``state_dict``,
    ``model``, ...), the state dict is taken; ``module.`` in front of all names is left out.

    Raises:
      WeightsFileError: the file is damaged or cut off; it asks for anything but tensors and containers, such as a
        whole model (save ``model.state_dict()``); or it holds no state dict.
    """
    file_size(path)
    if zipfile.is_zipfile(path):
        value, locate = _read_archive(path)
    else:
        value, locate = _read_legacy(path)
    tensors = _state_dict(path, value)
    return {name: _file_array(path, name, tensor, locate) for name, tensor in tensors.items()}


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
        raise WeightsFileError(f"{path} is damaged or cut off: {error}; fetch it again") from error

    def locate(storage: Storage) -> tuple[int, int | None, str]:
        entry = entries.get(f"{root}data/{storage.key}")
        expected = storage.size * storage.dtype.itemsize
        if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != expected:
            raise WeightsFileError(f"{path} is damaged: storage {storage.key!r} of {expected:,} bytes is not there")
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
            raise WeightsFileError(f"{path} is no file that torch.save wrote")
        protocol, system, value = _run(path, file), _run(path, file), _run(path, file)
        keys = _run(path, file)
        if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
            raise WeightsFileError(f"{path} is no file that torch.save wrote, or damaged")
        order = "<" if system.get("little_endian", True) else ">"
        storages = {storage.key: storage for storage in _storages(value)}
        for key in keys:
            count = int.from_bytes(file.read(8), "little" if order == "<" else "big", signed=True)
            storage = storages.get(key)
            if storage is None or count != storage.size:
                raise WeightsFileError(f"{path} is damaged or cut off: storage {key!r} has {count:,} elements")
            places[key] = file.tell(), count
            if count * storage.dtype.itemsize > size - file.tell():
                raise WeightsFileError(f"{path} has {size:,} bytes and is cut off; fetch it again")
            file.seek(count * storage.dtype.itemsize, 1)

    def locate(storage: Storage) -> tuple[int, int | None, str]:
        if storage.key not in places:
            raise WeightsFileError(f"{path} is damaged: storage {storage.key!r} is not there")
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
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            rest.extend(item.values() if isinstance(item, dict) else item)


def _file_array(path: Path, name: str, tensor: Tensor, locate: Locate) -> FileArray:
    storage = tensor.storage
    # The last element that the view reaches, and as many elements as the storage has at most: no view repeats them.
    last = tensor.offset + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=True))
    count = int(np.prod(tensor.shape, dtype=object))
    if count > storage.size or (count and last >= storage.size):
        raise WeightsFileError(f"{path} is damaged: tensor {name!r} of shape {tensor.shape} reaches out of its storage")
    offset, checksum, order = locate(storage)
    dtype = storage.dtype.newbyteorder(">") if order == ">" and storage.dtype.itemsize > 1 else storage.dtype
    return FileArray(path, offset, tensor.shape, dtype, tensor.offset, tensor.strides, storage.size, checksum)


def _state_dict(path: Path, value: Any) -> dict[str, Tensor]:
    """Return the tensors of the state dict in ``value``."""
    if isinstance(value, dict) and not any(isinstance(item, Tensor) for item in value.values()):
        inner = [key for key in WRAPPERS if isinstance(value.get(key), dict)]
        if not inner:
            raise WeightsFileError(f"{path} holds no state dict; its keys are {', '.join(map(str, list(value)[:10]))}")
        value = value[inner[0]]
    if not isinstance(value, dict):
        raise WeightsFileError(f"{path} holds no state dict but {_describe(value)}; save model.state_dict()")
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if not tensors:
        raise WeightsFileError(f"{path} holds a dictionary without tensors")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return tensors


def _describe(value: Any) -> str:
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


class _Mark:
    """Where a run of values begins on the stack."""


def _run(path: Path, file: BinaryIO | Any) -> Any:
    """Read one pickle from ``file`` and return the value that it describes."""

    def refuse(what: object) -> WeightsFileError:
        return WeightsFileError(
            f"{path} is refused: it asks for {what}, which is neither a tensor nor a container of tensors. Files that "
            "hold more than weights could run any program; save model.state_dict()"
        )

    stack: list[Any] = []
    memo: dict[int, Any] = {}
    mark = _Mark()

    def pop_mark() -> list[Any]:
        place = len(stack) - 1 - stack[::-1].index(mark)
        values = stack[place + 1 :]
        del stack[place:]
        return values

    try:
        instructions: Any = pickletools.genops(file)
        for number, (opcode, argument, _) in enumerate(instructions):
            if number > MAX_INSTRUCTIONS:
                raise WeightsFileError(f"{path} is refused: its description of the weights is too long")
            name = opcode.name
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return stack.pop()
            if name in VALUES:
                stack.append(VALUES[name](argument))
            elif name == "MARK":
                stack.append(mark)
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[argument])
            elif name == "TUPLE":
                stack.append(tuple(pop_mark()))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif name in ("APPENDS", "APPEND"):
                values = pop_mark() if name == "APPENDS" else [stack.pop()]
                _expect(stack[-1], list).extend(values)
            elif name in ("SETITEMS", "SETITEM"):
                values = pop_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
                _expect(stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))
            elif name == "GLOBAL":
                stack.append(_known(Name(*argument.split(" ", 1)), refuse))
            elif name == "STACK_GLOBAL":
                attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                stack.append(_known(Name(module, attribute), refuse))
            elif name == "REDUCE":
                arguments, function = _expect(stack.pop(), tuple), stack.pop()
                stack.append(_call(function, arguments, refuse))
            elif name == "BUILD":
                # The attributes of a dictionary, such as the versions that PyTorch notes; nothing here has any.
                stack.pop()
                _expect(stack[-1], dict)
            elif name == "BINPERSID":
                stack.append(_storage(stack.pop()))
            else:
                raise refuse(f"the instruction {name}")
    except WeightsFileError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError) as error:
        raise WeightsFileError(f"{path} is damaged, cut off, or no file that torch.save wrote") from error
    raise WeightsFileError(f"{path} is cut off; fetch it again")


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
    ),
    lambda argument: argument,
)

ORDERED_DICT = Name("collections", "OrderedDict")
TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
PARAMETER = Name("torch._utils", "_rebuild_parameter")
SIZE = Name("torch", "Size")


def _known(name: Name, refuse: Callable[[object], WeightsFileError]) -> Name:
    is_storage = name.module in ("torch", "torch.cuda") and name.name in STORAGES
    if not is_storage and name not in (ORDERED_DICT, TENSOR, PARAMETER, SIZE):
        raise refuse(name)
    return name


def _call(function: Any, arguments: tuple[Any, ...], refuse: Callable[[object], WeightsFileError]) -> Any:
    if function == ORDERED_DICT:
        return dict(*(_pairs(argument) for argument in arguments))
    if function == SIZE:
        return _expect(arguments[0], tuple)
    if function == TENSOR:
        storage, offset, shape, strides, *_ = arguments
        numbers = [offset, *shape, *strides]
        if len(shape) != len(strides) or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("a tensor's shape")
        return Tensor(_expect(storage, Storage), offset, tuple(shape), tuple(strides))
    if function == PARAMETER:
        return _expect(arguments[0], Tensor)
    raise refuse(function if isinstance(function, Name) else "a call of something else")


def _pairs(argument: Any) -> list[tuple[Any, Any]]:
    return [(key, value) for key, value in _expect(argument, list)]


def _storage(described: Any) -> Storage:
    """Return the storage that a persistent id describes; its elements are elsewhere in the file."""
    kind, name, key, _, size, *rest = _expect(described, tuple)
    if kind != "storage" or not isinstance(name, Name) or name.name not in STORAGES or any(rest):
        raise ValueError("a storage")
    if not isinstance(size, int) or size < 0:
        raise ValueError("a storage's size")
    return Storage(_expect(key, str), np.dtype(STORAGES[name.name]), size)


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected")
    return value
