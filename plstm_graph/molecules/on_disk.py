"""Molecules in a folder on disk, for sets that do not fit in memory.

    OnDiskMolecules.build(folder, graphs)                    # once; graphs may be a generator
    dataset = OnDiskMolecules(folder)
    loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=2)    # PyG's

The bytes of all molecules lie one after the other in a single file, which is mapped into memory and
only read. So any number of processes share it, the folder may be on read-only media, and a molecule
costs one copy of its bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data, Dataset

from plstm_graph.checks import integer
from plstm_graph.data import LineGraphData
from plstm_graph.molecules.errors import InputError
from plstm_graph.transforms import to_line_graphs

#: What is stored of a molecule. OGB's features are below 256: as bytes, a molecule takes a third
#: of the space; they are read as int64.
SCHEMA = {
    "x": {"dtype": torch.uint8, "size": (-1, 9)},
    "edge_index": {"dtype": torch.int32, "size": (2, -1)},
    "edge_attr": {"dtype": torch.uint8, "size": (-1, 3)},
    "y": {"dtype": torch.float32, "size": (-1,)},
    "dag_columns": {"dtype": torch.int32, "size": (6, -1)},
    "dag_lines": {"dtype": torch.int32, "size": (2, -1)},
}
_LONG = ("x", "edge_index", "edge_attr")
_DTYPES = {torch.uint8: np.uint8, torch.int32: np.int32, torch.float32: np.float32}
_FORMAT = {"format": "molecules on disk", "version": 1}
_FILES = ("molecules.bin", "index.npy", "format.json")


class OnDiskMolecules(Dataset):
    """The molecules that :meth:`build` has written, as :class:`plstm_graph.LineGraphData`.

    Indexing with integers of any kind, slices, lists, tensors, arrays and masks, ``shuffle``,
    ``multi_get``, samplers and all loaders work as in other data sets of PyG, on the whole set and
    on parts of it. An index out of range is an ``IndexError``.

    Args:
        root: the folder.
        transform: applied to each molecule that is read. Default: none.

    Raises:
        InputError: if there are none in the folder.
    """

    def __init__(
        self, root: str | Path, transform: Callable[[LineGraphData], Data] | None = None
    ) -> None:
        self._folder = Path(root)
        if not all((self._folder / name).is_file() for name in _FILES):
            old = (self._folder / "processed" / "sqlite.db").is_file()
            raise InputError(
                f"expected root to be a folder of molecules on disk, got {root}"
                + (", which an older version wrote" if old else "")
                + "; write them there with OnDiskMolecules.build(root, graphs)"
            )
        try:
            found = json.loads((self._folder / "format.json").read_text())
        except ValueError:
            found = {}
        if {key: found.get(key) for key in _FORMAT} != _FORMAT:
            raise InputError(
                f"expected {root} in the format {_FORMAT}, got {found}; build it again"
            )
        self._keys = found["keys"]
        #: [B, 1 + rows]: the first byte of each molecule, and the free size of each tensor.
        self._index = np.load(self._folder / "index.npy")
        end = int(self._index[-1, 0])
        size = (self._folder / "molecules.bin").stat().st_size
        if size != end:
            raise InputError(
                f"expected {end} bytes in {self._folder / 'molecules.bin'}, got {size}; the copy "
                f"is incomplete: copy or build it again"
            )
        self._bytes: np.ndarray | None = None
        super().__init__(None, transform)

    @classmethod
    def build(
        cls,
        root: str | Path,
        graphs: Iterable[Data],
        orientation: str | None = "canonical",
        *,
        chunk_size: int = 1000,
    ) -> OnDiskMolecules:
        """Write molecules and their line graphs to a folder, and open it.

        An interrupted call leaves nothing at ``root``.

        Args:
            root: a folder that does not exist yet.
            graphs: molecules with OGB's features: x [N, 9], edge_attr [M, 3], y [1] or [1, T]; only
                a chunk of them is in memory at a time.
            orientation: of the line graphs, see :func:`plstm_graph.to_line_graphs`; ``None`` to
                store none.
            chunk_size: molecules that are written at a time.

        Raises:
            InputError: if the folder exists, or on features that are not OGB's.
        """
        root = Path(root)
        integer("chunk_size", chunk_size, 1)
        if not isinstance(graphs, Iterable):
            raise InputError(f"expected graphs as an iterable, got {type(graphs).__name__}")
        if root.exists():
            raise InputError(f"expected root as a new folder, got {root}, which exists; remove it")
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{root.name}.", suffix=".partial", dir=root.parent))
        try:
            partial.chmod(0o755)
            _write(partial, iter(graphs), orientation, chunk_size)
            partial.rename(root)
        except BaseException as error:
            with suppress(Exception):
                shutil.rmtree(partial)
            if isinstance(error, OSError) and root.exists():
                raise InputError(
                    f"expected root as a new folder, got {root}, which another process has made "
                    f"meanwhile; open it"
                ) from error
            raise
        return cls(root)

    def len(self) -> int:
        return len(self._index) - 1

    def get(self, idx: int) -> LineGraphData:
        """The molecule at a place of the whole set, not transformed."""
        if self._bytes is None:
            path = self._folder / "molecules.bin"
            # A file without bytes cannot be mapped.
            mapped = path.stat().st_size > 0
            self._bytes = np.memmap(path, np.uint8, "r") if mapped else np.zeros(0, np.uint8)
        (start, *sizes), end = self._index[idx].tolist(), int(self._index[idx + 1, 0])
        row = np.array(self._bytes[start:end])  # what is read may be changed
        place, tensors = 0, {}
        for key, size in zip(self._keys, sizes):
            shape = tuple(size if axis == -1 else axis for axis in SCHEMA[key]["size"])
            dtype = np.dtype(_DTYPES[SCHEMA[key]["dtype"]])
            stop = place + dtype.itemsize * int(np.prod(shape))
            tensor = torch.from_numpy(row[place:stop].copy().view(dtype).reshape(shape))
            tensors[key] = tensor.long() if key in _LONG else tensor
            place = stop
        if tensors["y"].numel() > 1:
            tensors["y"] = tensors["y"].view(1, -1)
        return LineGraphData(**tensors)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (int, np.integer)) or (
            isinstance(index, (Tensor, np.ndarray))
            and index.ndim == 0
            and index.dtype not in (torch.bool, np.bool_)
        ):
            data = self.get(self._place(int(index)))
            return data if self.transform is None else self.transform(data)
        return self.index_select(index)

    def index_select(self, idx: Any) -> OnDiskMolecules:
        """The part of the set with these molecules, in this order; it shares the file."""
        part = self.__class__.__new__(self.__class__)
        part.__dict__.update(self.__dict__)
        part._indices = self._places(idx)
        return part

    def __getitems__(self, indices: Sequence[int]) -> list[Data]:
        return self.multi_get(indices)

    def multi_get(self, indices: Any, batch_size: int | None = None) -> list[Data]:
        """The molecules with these indices, of this set or part; ``batch_size`` is not used."""
        found = [self.get(place) for place in self._places(indices)]
        return found if self.transform is None else [self.transform(data) for data in found]

    def _place(self, index: int) -> int:
        """Where the molecule with an index of this set or part lies in the whole set."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(
                f"expected an index from {-count} to {count - 1} of {count} molecules on disk, got "
                f"{index}"
            )
        index %= count
        return index if self._indices is None else int(self._indices[index])

    def _places(self, indices: Any) -> list[int]:
        if isinstance(indices, slice):
            return [self._place(i) for i in range(*indices.indices(len(self)))]
        if isinstance(indices, (Tensor, np.ndarray)) or (
            isinstance(indices, Sequence) and indices and isinstance(indices[0], (bool, np.bool_))
        ):
            array = np.asarray(indices)
            if array.dtype == bool:
                if array.shape != (len(self),):
                    raise IndexError(
                        f"expected a mask of {len(self)} molecules, got shape {list(array.shape)}"
                    )
                array = np.flatnonzero(array)
            elif array.size and array.dtype.kind not in "iu":
                raise IndexError(f"expected integers or a mask as indices, got {array.dtype}")
            indices = array.reshape(-1).tolist()
        if isinstance(indices, (str, bytes)) or not isinstance(indices, Iterable):
            raise IndexError(
                f"expected an index, a slice, integers or a mask, got {type(indices).__name__}"
            )
        return [self._place(int(integer("index", index))) for index in indices]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}  # each process maps the file itself

    def __iter__(self) -> Iterator[Data]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)})"


def _write(folder: Path, stream: Iterator[Data], orientation: str | None, chunk_size: int) -> None:
    keys = [key for key in SCHEMA if orientation is not None or not key.startswith("dag_")]
    index, place, written = [], 0, 0
    with open(folder / "molecules.bin", "wb") as file:
        while chunk := list(islice(stream, chunk_size)):
            try:
                lined = chunk if orientation is None else to_line_graphs(chunk, orientation)
                rows = [_serialize(data, keys) for data in lined]
            except ValueError as error:
                where = f"graphs {written} to {written + len(chunk) - 1}, counted from there"
                raise InputError(f"{error} (in {where})") from error
            for row in rows:
                sizes = [row[key].shape[SCHEMA[key]["size"].index(-1)] for key in keys]
                index.append([place, *sizes])
                for key in keys:
                    place += file.write(row[key].numpy().tobytes())
            written += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    index.append([place] + [0] * len(keys))
    np.save(folder / "index.npy", np.array(index, dtype=np.int64))
    (folder / "format.json").write_text(json.dumps({**_FORMAT, "keys": keys}))


def _serialize(data: Data, keys: Sequence[str]) -> dict[str, Tensor]:
    row = {}
    for key in keys:
        dtype, size = SCHEMA[key]["dtype"], SCHEMA[key]["size"]
        value = data._store.get(key)
        if key == "y" and isinstance(value, Tensor) and value.dim() == 2 and len(value) == 1:
            value = value[0]
        fits = isinstance(value, Tensor) and value.dim() == len(size)
        if not fits or any(a not in (-1, b) for a, b in zip(size, value.shape)):
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"expected {key} of each molecule as a tensor of shape {list(size)}, got "
                f"{got}; use molecules with OGB's features"
            )
        row[key] = value.detach().cpu().to(dtype).contiguous()
        if not dtype.is_floating_point and not torch.equal(row[key].to(value.dtype), value.cpu()):
            raise InputError(
                f"expected {key} of each molecule as integers from 0 to "
                f"{torch.iinfo(dtype).max}, got values from {value.min()} to {value.max()}; "
                f"use molecules with OGB's features"
            )
    return row
