"""Molecules with their line graphs in a database on disk, for sets that do not fit in memory.

    OnDiskMolecules.build(folder, graphs)                    # once; graphs may be a generator
    dataset = OnDiskMolecules(folder)
    loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=2)    # PyG's

Line graphs are built once, chunk by chunk, and read with the molecules. A loader fetches a whole
batch in one query.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data, Database, OnDiskDataset

from datasets.base import InputError
from plstm_graph import LineGraphData, to_line_graphs
from plstm_graph.checks import integer

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


class OnDiskMolecules(OnDiskDataset):
    """The molecules that :meth:`build` has written, as :class:`plstm_graph.LineGraphData`.

    Indexing, slicing, ``multi_get`` and all loaders work as in other data sets of PyG; workers of
    a loader open the database themselves.

    Args:
        root: the folder.
        transform: applied to each molecule that is read. Default: none.

    Raises:
        InputError: if there are none in the folder.
    """

    def __init__(
        self, root: str | Path, transform: Callable[[LineGraphData], Data] | None = None
    ) -> None:
        if not (Path(root) / "processed" / "sqlite.db").is_file():
            raise InputError(
                f"expected root to be a folder of molecules on disk, got {root}; write them there "
                f"with OnDiskMolecules.build(root, graphs)"
            )
        self._open(root, transform)

    def _open(self, root: str | Path, transform: Callable | None = None) -> None:
        self._process_id = os.getpid()
        super().__init__(str(root), transform, schema=SCHEMA, log=False)

    @classmethod
    def build(
        cls,
        root: str | Path,
        graphs: Iterable[Data],
        orientation: str = "canonical",
        *,
        chunk_size: int = 1000,
    ) -> OnDiskMolecules:
        """Write molecules and their line graphs to a folder, and open it.

        An interrupted call leaves nothing at ``root``.

        Args:
            root: a folder that does not exist yet.
            graphs: molecules with OGB's features: x [N, 9], edge_attr [M, 3], y [1]; only a chunk
                of them is in memory at a time.
            orientation: of the line graphs, see :func:`plstm_graph.to_line_graphs`.
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
        partial = root.with_name(f"{root.name}.{os.getpid()}.partial")
        dataset, written = cls.__new__(cls), 0
        try:
            dataset._open(partial)
            stream = iter(graphs)
            while chunk := list(islice(stream, chunk_size)):
                try:
                    dataset.extend(to_line_graphs(chunk, orientation))
                except ValueError as error:
                    where = f"graphs {written} to {written + len(chunk) - 1}, counted from there"
                    raise InputError(f"{error} (in {where})") from error
                written += len(chunk)
            dataset.close()
            partial.rename(root)
        except BaseException:
            # What went wrong is reported, whatever is left to tidy up.
            with suppress(Exception):
                dataset.close()
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return cls(root)

    @property
    def db(self) -> Database:
        """The database, by a connection of this process: none must be carried into a worker."""
        if self._process_id != os.getpid():
            self._db, self._process_id = None, os.getpid()
        return super().db

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_db": None}

    def multi_get(
        self, indices: Sequence[int] | Tensor | slice, batch_size: int | None = None
    ) -> list[Data]:
        """The molecules with these indices, in one query."""
        if isinstance(indices, slice):
            indices = range(*indices.indices(len(self)))
        indices = indices.tolist() if isinstance(indices, Tensor) else list(indices)
        return super().multi_get(indices, batch_size) if indices else []

    def serialize(self, data: LineGraphData) -> dict[str, Tensor]:
        row = {}
        for key, info in SCHEMA.items():
            value, dtype, size = data._store.get(key), info["dtype"], info["size"]
            fits = isinstance(value, Tensor) and value.dim() == len(size)
            if not fits or any(a not in (-1, b) for a, b in zip(size, value.shape)):
                got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    f"expected {key} of each molecule as a tensor of shape {list(size)}, got "
                    f"{got}; use molecules with OGB's features"
                )
            row[key] = value.to(dtype).contiguous()
            if not dtype.is_floating_point and not torch.equal(row[key].to(value.dtype), value):
                raise InputError(
                    f"expected {key} of each molecule as integers from 0 to "
                    f"{torch.iinfo(dtype).max}, got values from {value.min()} to {value.max()}; "
                    f"use molecules with OGB's features"
                )
        return row

    def deserialize(self, row: dict[str, Tensor]) -> LineGraphData:
        # The database's tensors are views of read-only bytes.
        return LineGraphData(
            **{key: t.long() if key in _LONG else t.clone() for key, t in row.items()}
        )
