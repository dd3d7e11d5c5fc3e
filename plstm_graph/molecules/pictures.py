"""Pictures of a run: learning curves, and predictions of the test set."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from plstm_graph.molecules.data import MoleculeSet
from plstm_graph.molecules.store import ModelConfig, write_atomically

if TYPE_CHECKING:
    from plstm_graph.molecules.evaluation import Group, Trained

#: Targets with a panel of their own.
MOST_PANELS = 12
BLUE, GREY = "#2563eb", "#94a3b8"


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, dpi=120, format="png")
    write_atomically(path, buffer.getvalue())


def curves(path: Path, trained: list[Trained]) -> None:
    """Training loss and the validation metric of each network."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    monitor = trained[0].monitor
    for one in trained:
        x = range(1, len(one.epochs) + 1)
        left.plot(x, [epoch["loss"] for epoch in one.epochs], color=BLUE, alpha=0.7)
        valid = [epoch[f"valid_{one.monitor}"] for epoch in one.epochs]
        right.plot(x, valid, color=BLUE, alpha=0.7)
        right.plot(one.best + 1, valid[one.best], "o", color=BLUE)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel=f"validation {monitor.replace('_', ' ')}")
    right.set_title("dots: the epochs whose weights are kept", fontsize="medium")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, path)


def predictions(out: Path, config: ModelConfig, groups: list[Group], data: MoleculeSet) -> str:
    """Parity plots, ROC curves or a confusion matrix of all test molecules; the file's name."""
    pred = np.concatenate([group.pred for group in groups])
    true = np.concatenate([data.targets.values[group.rows] for group in groups])
    if config.task == "regression":
        spread = np.concatenate([group.spread for group in groups])
        name, figure = "parity.png", _parity(config, pred, true, spread)
    elif config.task == "multiclass":
        name, figure = "confusion.png", _confusion(config, pred, true)
    else:
        name, figure = "roc.png", _roc(config, pred, true)
    _save(figure, out / name)
    return name


def _panels(count: int, size: float) -> tuple[Figure, list]:
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size * columns, size * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, list(grid[:count])


def _parity(config: ModelConfig, pred: np.ndarray, true: np.ndarray, spread: np.ndarray) -> Figure:
    names = config.targets[:MOST_PANELS]
    figure, panels = _panels(len(names), 4.5 if len(names) == 1 else 3.2)
    for i, (axes, name) in enumerate(zip(panels, names)):
        known = np.isfinite(true[:, i])
        x, y, bar = true[known, i], pred[known, i], spread[known, i]
        if np.isfinite(bar).all():
            axes.errorbar(x, y, bar, fmt="none", ecolor=GREY, elinewidth=0.6, alpha=0.6, zorder=1)
        axes.scatter(x, y, s=9, alpha=0.7, color=BLUE, linewidths=0, zorder=2)
        if x.size:
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            axes.plot(ends, ends, color="grey", linewidth=0.8, linestyle="--")
        axes.set(xlabel="true", ylabel="predicted")
        axes.set_title(name, fontsize="medium")
        axes.grid(alpha=0.3)
    return figure


def _roc(config: ModelConfig, pred: np.ndarray, true: np.ndarray) -> Figure:
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    missing = 0
    for i, name in enumerate(config.targets):
        known = np.isfinite(true[:, i])
        if len(np.unique(true[known, i])) < 2:
            missing += 1
            continue
        false_rate, true_rate, _ = roc_curve(true[known, i], pred[known, i])
        axes.plot(false_rate, true_rate, label=name if i < MOST_PANELS else None)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    note = f" ({missing} without both classes)" if missing else ""
    axes.set_title(f"test set{note}", fontsize="medium")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    return figure


def _confusion(config: ModelConfig, pred: np.ndarray, true: np.ndarray) -> Figure:
    count = len(config.classes)
    matrix = np.zeros((count, count), dtype=int)
    np.add.at(matrix, (true[:, 0].astype(int), pred.argmax(1)), 1)
    size = min(12.0, 3.0 + 0.5 * count)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix, cmap="Blues")
    if count <= 20:
        axes.set_xticks(range(count), config.classes, rotation=45, ha="right")
        axes.set_yticks(range(count), config.classes)
        half = matrix.max() / 2
        for i, j in np.ndindex(count, count):
            color = "white" if matrix[i, j] > half else "black"
            axes.text(j, i, matrix[i, j], ha="center", va="center", color=color)
    axes.set(xlabel="predicted", ylabel="true")
    return figure
