"""Peptides-func and Peptides-struct of the Long Range Graph Benchmark (arXiv 2206.08164)."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.datasets import LRGBDataset

from datasets.base import GraphDataset, InputError, data_root
from plstm_graph.molecules.graphs import parse, report_bad

TASKS = {"peptides-func": "multilabel", "peptides-struct": "regression"}
NAMES = tuple(TASKS)
# Their parts are called train, val and test.
PARTS = {"train": "train", "valid": "val", "test": "test"}


class PeptidesFunctional(InMemoryDataset):
    """Peptides-func made of SMILES, with RDKit's canonical ranks of the atoms.

    Args:
        root: folder with raw/peptide_multi_class_dataset.csv.gz; the graphs are kept in processed/.
    """

    raw_file_names = "peptide_multi_class_dataset.csv.gz"
    processed_file_names = "graphs_v1.pt"  # another number when graphs or targets change

    def __init__(self, root: str | Path) -> None:
        super().__init__(str(root), log=False)
        self.load(self.processed_paths[0])

    def process(self) -> None:
        table = pd.read_csv(self.raw_paths[0])
        graphs, bad = parse(enumerate(table["smiles"]))
        if bad:  # rows of the split would move
            raise InputError(
                f"expected molecules that RDKit can read in {self.raw_paths[0]}, got others: "
                f"{report_bad(bad, len(table))}; is the file whole?"
            )
        for row, graph in graphs.items():
            graph.y = torch.tensor([json.loads(table["labels"][row])], dtype=torch.float32)
            del graph.smiles
        self.save(list(graphs.values()), self.processed_paths[0])


def load(name: str, root: str | Path | None = None) -> GraphDataset:
    """A peptide set with its official split.

    Peptides-func is made of ``root``/peptides-functional where its raw file and split lie there;
    otherwise, as Peptides-struct, it comes through PyG's ``LRGBDataset`` in ``root``/lrgb, which
    downloads it.

    Args:
        name: one of :data:`NAMES`: 10 labels, or 11 normalised properties to be regressed.
        root: data root.
    """
    if name not in NAMES:
        raise InputError(f"expected one of {', '.join(NAMES)}, got {name!r}")
    home = data_root(root) / "peptides-functional"
    if name == "peptides-func" and (home / "raw" / PeptidesFunctional.raw_file_names).exists():
        return _functional(home)
    return _lrgb(name, data_root(root) / "lrgb")


def _functional(home: Path) -> GraphDataset:
    path = home / "splits_random_stratified_peptide.json"
    if not path.exists():
        raise InputError(
            f"expected the official split {path}, got no such file; put it there, or remove {home} "
            f"to have PyG's LRGBDataset download the set"
        )
    rows = json.loads(path.read_text())
    split = {part: torch.tensor(rows[theirs]) for part, theirs in PARTS.items()}
    graphs = list(PeptidesFunctional(home))
    if sorted(torch.cat(list(split.values())).tolist()) != list(range(len(graphs))):
        raise InputError(
            f"expected {path} to name each of the {len(graphs)} peptides once, got "
            f"{sum(map(len, split.values()))} rows up to {max(map(max, rows.values()))}; the split "
            f"and the raw file are of different sets"
        )
    return GraphDataset("peptides-func", TASKS["peptides-func"], graphs, split)


def _lrgb(name: str, root: Path) -> GraphDataset:
    try:
        parts = [list(LRGBDataset(str(root), name, theirs)) for theirs in PARTS.values()]
    except OSError as error:
        by_hand = f"put its train.pt, val.pt and test.pt into {root / name / 'raw'}"
        if name == "peptides-func":
            by_hand += f", or its CSV file and split into {root.parent / 'peptides-functional'}"
        raise InputError(
            f"expected {name} in {root / name} or to download it there, got {error!r}; {by_hand}"
        ) from None
    graphs: list[Data] = [graph for part in parts for graph in part]
    for graph in graphs:
        graph.y = graph.y.to(torch.float32)
    bounds = torch.arange(len(graphs)).split([len(part) for part in parts])
    return GraphDataset(name, TASKS[name], graphs, dict(zip(PARTS, bounds)))
