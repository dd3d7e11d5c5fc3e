"""ogbg-mol* data sets with their official split and evaluator, through OGB's own loader."""

from __future__ import annotations

from pathlib import Path

import torch
from ogb.graphproppred import Evaluator, PygGraphPropPredDataset
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
from torch_geometric.data.storage import GlobalStorage

from datasets.base import GraphDataset, InputError, data_root

NAMES = ("ogbg-molhiv", "ogbg-molesol", "ogbg-molfreesolv", "ogbg-mollipo")

# OGB's loader calls torch.load without weights_only; from torch 2.6 on that refuses PyG's
# classes unless they are named as safe.
_SAFE = (Data, DataEdgeAttr, DataTensorAttr, GlobalStorage)


def load(name: str, root: str | Path | None = None) -> GraphDataset:
    """An OGB molecule set; downloads it into ``root``/ogb where it is not there yet.

    Args:
        name: one of :data:`NAMES`.
        root: data root.
    """
    if name not in NAMES:
        raise InputError(f"expected one of {', '.join(NAMES)}, got {name!r}")
    folder = data_root(root) / "ogb"
    _refuse_question(name, folder)
    with torch.serialization.safe_globals(_SAFE):
        raw = PygGraphPropPredDataset(name, root=str(folder))
    graphs = []
    for data in raw:
        data.y = data.y.view(1).to(torch.float32)
        graphs.append(data)
    task = "binary" if "classification" in raw.task_type else "regression"
    return GraphDataset(name, task, graphs, raw.get_idx_split(), evaluator=_evaluator(name))


def _evaluator(name: str):
    official = Evaluator(name)

    def evaluate(pred: Tensor, target: Tensor) -> dict[str, float]:
        table = {"y_pred": pred.view(-1, 1), "y_true": target.view(-1, 1)}
        return {key: float(value) for key, value in official.eval(table).items()}

    return evaluate


def _refuse_question(name: str, folder: Path) -> None:
    """OGB asks on standard input whether to update a folder without its release file."""
    for home in (folder / f"{name.replace('-', '_')}_pyg", folder / name.replace("-", "_")):
        if home.is_dir():
            if not (home / "RELEASE_v1.txt").exists():
                raise InputError(
                    f"expected the file RELEASE_v1.txt in the folder of {name}, {home}: what is "
                    f"there is incomplete or old; remove the folder to download it again"
                )
            return
