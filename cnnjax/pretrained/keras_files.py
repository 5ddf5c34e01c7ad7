"""Read the files that Keras saves: ``.weights.h5``, ``.keras`` and the older ``.h5``."""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax.pretrained.arrays import WeightsFileError, check_shape, file_size, quoted, shortened, stored_offset

# The arrays of a layer in the order in which Keras 3 numbers them, by the class that it names the group after.
ORDER: dict[str, tuple[str, ...]] = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layer_normalization": ("gamma", "beta"),
    "layer_scale": ("variable",),
    "normalization": ("mean", "variance", "count"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "conv2d": ("kernel", "bias"),
    "conv2d_transpose": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
}


@dataclasses.dataclass(frozen=True)
class DatasetArray:
    """An HDF5 data set, read anew by each ``np.asarray``."""

    path: Path
    dataset: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.dataset.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array."""
        return np.dtype(jnp.bfloat16) if self._is_bfloat16 else self.dataset.dtype

    @property
    def _is_bfloat16(self) -> bool:
        return self.dataset.attrs.get("dtype") == "bfloat16"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read the array."""
        try:
            array = self.dataset[()]
        except DAMAGE as error:
            raise _damaged(self.path, error) from error
        # HDF5 has no such type; Keras stores the bits.
        array = array.view(jnp.bfloat16) if self._is_bfloat16 else array
        return array if dtype is None else array.astype(dtype)


class _Part(io.RawIOBase):
    """A part of a file, to be read as a file of its own without a copy in memory."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb")
        self._offset, self._size, self._place = offset, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the part."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        # Damaged files say of places that they are far behind the end.
        self._place = min(max(start + offset, 0), self._size)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``, at most to the end of the part."""
        self._file.seek(self._offset + self._place)
        length = min(len(buffer), self._size - self._place)
        count = self._file.readinto(memoryview(buffer)[:length])
        self._place += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def read_keras(path: Path) -> dict[str, DatasetArray]:
    """Return the arrays of a Keras file by the names of Keras 3 (``weight.path``), unread.

    Needs h5py (``pip install "cnnjax[keras]"``).

    Raises:
      WeightsFileError: the file is damaged, truncated or not a file of Keras; or h5py is not there.
    """
    file_size(path)
    try:
        import h5py
    except ImportError as error:
        raise WeightsFileError(f'to read {path}, install h5py: pip install "cnnjax[keras]"') from error
    source: Any = path
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entry = archive.getinfo("model.weights.h5")
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise WeightsFileError(f"{path} is refused: its weights are compressed, which Keras does not do")
                source = _Part(path, stored_offset(path, entry), entry.file_size)
        except WeightsFileError:
            raise
        except (KeyError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
            raise _damaged(path, error) from error
    try:
        file = h5py.File(source, "r")
    except DAMAGE as error:
        raise _damaged(path, error) from error
    try:
        _check_links(path, file, h5py)
        found = dict(_legacy(path, file, h5py) if _is_legacy(file) else _numbered(path, file, h5py))
        if not found:
            raise WeightsFileError(f"{path} holds no weights of a Keras model")
        for name, array in found.items():
            check_shape(path, name, array.shape)
            _check_stored(path, name, array.dataset)
    except WeightsFileError:
        file.close()
        raise
    except DAMAGE as error:
        file.close()
        raise _damaged(path, error) from error
    return found


# Elements of an array that HDF5 may read at once, however few of them are asked for.
MAX_CHUNK = 2**22
# What h5py raises about bytes that mean nothing.
DAMAGE = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, SystemError)


def _damaged(path: Path, error: Exception) -> WeightsFileError:
    return WeightsFileError(f"{path} is not a file that Keras wrote, damaged or truncated: {shortened(str(error))}")


def _check_stored(path: Path, name: str, dataset: Any) -> None:
    """Raise an error for an array that is no array of numbers, or takes much more room than its numbers."""
    if dataset.dtype.kind not in "fiub":
        raise WeightsFileError(f"{path} holds something other than numbers under {quoted(name)}")
    if dataset.chunks is not None and math.prod(dataset.chunks) > max(4 * dataset.size, MAX_CHUNK):
        raise WeightsFileError(f"{path} is refused: array {quoted(name)} is stored in parts larger than itself")


def _datasets(path: Path, group: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Return the data sets in ``group`` that lie in this file, with their paths."""
    found: list[tuple[str, Any]] = []
    group.visititems(lambda place, item: found.append((place, item)) if isinstance(item, h5py.Dataset) else None)
    for place, dataset in found:
        if dataset.external or dataset.is_virtual:
            raise WeightsFileError(f"{path} is refused: array {shortened(place)} is kept in another file")
        yield place, dataset


def _check_links(path: Path, file: Any, h5py: Any) -> None:
    """Raise an error if a name stands for something that is in another file, or elsewhere in this one."""
    links: list[str] = []
    file.visititems_links(lambda place, link: None if isinstance(link, h5py.HardLink) else links.append(place))
    if links:
        raise WeightsFileError(f"{path} is refused: {shortened(links[0])} is a link to what is elsewhere")


def _is_legacy(file: Any) -> bool:
    return "model_weights" in file or "layer_names" in file.attrs


def _legacy(path: Path, file: Any, h5py: Any) -> Iterator[tuple[str, DatasetArray]]:
    """Read the format of ``tf.keras``: a group a layer, arrays by their names."""
    root = file.get("model_weights", file)
    for layer, group in root.items():
        arrays = {place.removesuffix(":0"): dataset for place, dataset in _datasets(path, group, h5py)}
        separable = any(place.endswith("/pointwise_kernel") for place in arrays)
        for place, dataset in arrays.items():
            # The group of the layer holds arrays with the layer's name before them; in a nested model, that of the
            # inner layer.
            *scopes, leaf = place.split("/")
            if leaf == "depthwise_kernel" and not separable:
                leaf = "kernel"
            yield "/".join([*(scopes or [layer]), leaf]), DatasetArray(path, dataset)


def _numbered(path: Path, file: Any, h5py: Any) -> Iterator[tuple[str, DatasetArray]]:
    """Read the format of Keras 3: groups after the classes of layers, arrays by number, names as attributes."""
    groups: dict[str, dict[int, Any]] = {}
    for place, dataset in _datasets(path, file, h5py):
        group, _, number = place.rpartition("/")
        if not number.isdecimal():
            raise WeightsFileError(f"{path} is not a file of Keras weights: it holds an array {shortened(place)}")
        groups.setdefault(group, {})[int(number)] = dataset
    for group, arrays in groups.items():
        kind, place = _split_number(group.removesuffix("/vars").rpartition("/")[2])
        if kind in ("seed_generator", "optimizer") or group.startswith("optimizer"):
            continue
        # A layer of a nested model has the names of both.
        parts = group.removesuffix("/vars").split("/")
        around = ["/".join(parts[: depth + 1]) for depth in range(len(parts) - 1)]
        names = [_name(file[f"{outer}/vars"]) for outer in around if f"{outer}/vars" in file]
        names.append(_name(file[group]))
        if None in names:
            raise WeightsFileError(
                f"{path} does not tell the name of its layer {shortened(group)}, as early versions of Keras 3 do not; "
                "load and save it with a newer one"
            )
        name = "/".join(map(str, names))
        for index, leaf in enumerate(_leaves(path, kind, name, len(arrays))):
            # Keras counts the arrays that it gives no name over the whole network, as it counts these layers.
            leaf = f"variable{place}" if kind == "layer_scale" else leaf
            yield f"{name}/{leaf}", DatasetArray(path, arrays[index])


def _name(group: Any) -> str | None:
    name = group.attrs.get("name")
    return name.decode() if isinstance(name, bytes) else None if name is None else str(name)


def _leaves(path: Path, kind: str, name: str, count: int) -> tuple[str, ...]:
    """Return the names of a layer's arrays."""
    order = ORDER.get(kind)
    if order is None:
        raise WeightsFileError(
            f"{path}: layer {shortened(name)} is a {shortened(kind)}, whose arrays have no names here"
        )
    # A batch normalisation made with scale=False lacks its first array, other layers without bias their last.
    if kind == "batch_normalization" and count < len(order):
        return order[len(order) - count :]
    if count > len(order):
        raise WeightsFileError(
            f"{path}: layer {shortened(name)}, a {shortened(kind)}, has {count} arrays, expected at most {len(order)}"
        )
    return order[:count]


def _split_number(name: str) -> tuple[str, str]:
    """Return the class that a group is named after, and its number with the underscore."""
    word, _, number = name.rpartition("_")
    return (word, f"_{number}") if word and number.isdecimal() else (name, "")
