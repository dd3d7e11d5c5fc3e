"""Networks that a run has trained, and their predictions of the test molecules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch_geometric.data import Data

from plstm_graph.molecules.console import Voice
from plstm_graph.molecules.data import MoleculeSet
from plstm_graph.molecules.metrics import Scores, scores
from plstm_graph.molecules.model import Architecture, MoleculeNet
from plstm_graph.molecules.options import TrainOptions
from plstm_graph.molecules.prediction import chunks
from plstm_graph.molecules.predictor import Predictor, device_of
from plstm_graph.molecules.splits import Parts
from plstm_graph.molecules.store import Member, ModelConfig, load_weights
from plstm_graph.molecules.task import Task


@dataclass
class Trained:
    """A finished network and how it came about.

    Args:
        member: its place in the model.
        parts: the split it was trained on.
        epochs: what was logged in each epoch.
        best: the epoch of its weights, from 0.
        monitor, why: what picked it.
        task: with the scale of its targets.
    """

    member: Member
    parts: Parts
    epochs: list[dict[str, float]]
    best: int
    monitor: str
    why: str
    task: Task


@dataclass
class Group:
    """The networks of one split, and their predictions of its test part.

    Args:
        seed, fold: of the split.
        rows: of the test part.
        pred, spread: [B, columns].
        scores: metrics.
    """

    seed: int
    fold: int
    rows: np.ndarray
    pred: np.ndarray
    spread: np.ndarray
    scores: Scores


def evaluate(
    config: ModelConfig,
    trained: list[Trained],
    data: MoleculeSet,
    options: TrainOptions,
    voice: Voice,
) -> list[Group]:
    """Test predictions of each split, as ``predict`` would make them."""
    nets = []
    for one in trained:
        net = MoleculeNet(Architecture(**config.architecture))
        net.load_state_dict(load_weights(Path(options.out) / "model" / one.member.file))
        nets.append(net.double().eval())
    device = device_of(options.accelerator)
    predictor = Predictor(config, nets, options.orientations, device)
    splits: dict[tuple[int, int], list[int]] = {}
    for i, one in enumerate(trained):
        splits.setdefault((one.member.seed, one.member.fold), []).append(i)
    groups = []
    for (seed, fold), members in splits.items():
        rows = trained[members[0]].parts["test"].numpy()
        found: list[tuple[Any, Any]] = []
        for chunk in voice.track(chunks(rows.tolist(), 256), "batches of test molecules"):
            graphs = [_graph(data, row) for row in chunk]
            found.append(predictor.predict(graphs, members))
        pred, spread = (np.concatenate(parts) for parts in zip(*found))
        result = scores(
            config.task, config.targets, pred, data.targets.values[rows],
            trained[members[0]].task.std, config.classes,
        )  # fmt: skip
        groups.append(Group(seed, fold, rows, pred, spread, result))
    return groups


def _graph(data: MoleculeSet, row: int) -> Data:
    graph = data.graphs[row]
    return Data(
        x=graph.x, edge_index=graph.edge_index, edge_attr=graph.edge_attr, smiles=data.smiles[row]
    )
