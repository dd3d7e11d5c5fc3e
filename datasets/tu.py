"""MUTAG, NCI1, PROTEINS and PTC_FM of the TU collection, through PyG's ``TUDataset``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch_geometric.datasets import TUDataset
from torch_geometric.transforms import AddRandomWalkPE, Compose

from datasets.base import GraphDataset, InputError, data_root
from datasets.splits import cross_validation_split

NAMES = ("MUTAG", "NCI1", "PROTEINS", "PTC_FM")


def load(
    name: str, root: str | Path | None = None, *, fold: int = 0, walks: int = 0
) -> GraphDataset:
    """One fold of a TU set; downloads it into ``root``/tu where it is not there yet.

    Node labels come one-hot, with the continuous node attributes before them where the set has
    any (PROTEINS), of which the inverse hyperbolic sine is taken: they run from -538 to 798, most
    of them between 0 and 15. Edge labels come one-hot where there are any. The classes become 0
    and 1.

    Args:
        name: one of :data:`NAMES`.
        root: data root.
        fold: fold of the cross-validation, see :func:`cross_validation_split`.
        walks: append to the features of a node the probabilities that a random walk from it is
            back after 1, ..., ``walks`` steps.
    """
    if walks < 0:
        raise InputError(f"expected walks >= 0, got {walks}")
    if name not in NAMES:
        raise InputError(f"expected one of {', '.join(NAMES)}, got {name!r}")
    raw = TUDataset(str(data_root(root) / "tu"), name, use_node_attr=True)
    encode = AddRandomWalkPE(walks, attr_name=None) if walks else Compose([])
    graphs = []
    for data in map(encode, raw):
        data.y = data.y.view(1).to(torch.float32)
        attributes, rest = data.x.tensor_split([raw.num_node_attributes], dim=1)
        data.x = torch.cat([attributes.asinh(), rest], dim=1)
        graphs.append(data)
    labels = torch.cat([graph.y for graph in graphs]).long()
    return GraphDataset(name, "binary", graphs, cross_validation_split(labels, fold))
