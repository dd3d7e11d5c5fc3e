"""What a run leaves behind: one table, one JSON file, two pictures."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, NullFormatter
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics.functional import mean_absolute_error, mean_squared_error, r2_score
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    multilabel_average_precision,
)

from experiments.metrics import SEVERAL, standardised_errors

matplotlib.use("Agg")  # pictures are files; no display is needed

# Models and rows of tables, in the order of the tables; then metrics and targets.
TITLES = {
    "gat": "GAT",
    "gcn": "GCN",
    "gin": "GIN",
    "gin_walks": "GIN, walks read",
    "gin_virtual": "GIN + virtual node",
    "gine": "GINE",
    "gatv2": "GATv2",
    "gps": "GPS",
    "lstm_gnn": "LSTM-GNN",
    "mpnn": "MPNN",
    "plstm": "pLSTM",
    "plstm_random": "pLSTM, orientations drawn",
    "plstm_random_4": "pLSTM, orientations drawn, 4 averaged",
    "plstm_gin": "pLSTM + GIN",
    "plstm_gin_random": "pLSTM + GIN, orientations drawn",
    "plstm_gin_walks": "pLSTM + GIN, walks read",
    "plstm_gin_walks_random": "pLSTM + GIN, walks read, orientations drawn",
    "plstm_local": "pLSTM + GINE",
    "plstm_local_random": "pLSTM + GINE, orientations drawn",
    "dag_lstm": "DAG-LSTM",
    "vit": "ViT",
    "cnn": "CNN",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "r2",
    "roc_auc": "ROC-AUC",
    "rocauc": "ROC-AUC (OGB)",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "standardised_rmse": "mean RMSE/SD",
    "penalised_logp": "penalised logP",
    "log_wiener": "log Wiener",
    "diameter": "diameter",
    "balaban_j": "Balaban J",
    "log_kappa3": "log kappa 3",
    "conjugated_atoms": "conjugated",
    "tpsa": "TPSA",
}
# One colour a model in every picture, told apart also by colour-blind readers.
COLOURS = {
    "plstm": "#d55e00",
    "gine": "#0072b2",
    "gatv2": "#009e73",
    "gps": "#cc79a7",
    "vit": "#0072b2",
    "cnn": "#009e73",
}


def title(key: str) -> str:
    return TITLES.get(key, key)


def final_metrics(
    task: str,
    pred: Tensor,
    target: Tensor,
    evaluator=None,
    *,
    names: Sequence[str] = (),
    std: Tensor | float = 1.0,
) -> dict[str, float]:
    """All metrics of one set.

    Args:
        task: "regression", "binary" or "multilabel".
        pred: [B] or [B, T] values in the target's unit, or probabilities.
        target: [B] or [B, T].
        evaluator: the benchmark's own, if any; its values win.
        names: of several regressed targets, whose metrics are the RMSE of each in standard
            deviations, by its name, and the mean of these errors as "standardised_rmse".
        std: [T] standard deviations of their training targets.
    """
    if task == "regression" and target.dim() > 1:
        errors = standardised_errors(pred, target, std)
        values = dict(zip(names, errors.tolist(), strict=True))
        values[SEVERAL[0]] = float(errors.mean())
    elif task == "regression":
        values = {
            "rmse": float(mean_squared_error(pred, target, squared=False)),
            "mae": float(mean_absolute_error(pred, target)),
            # Not defined for a single molecule.
            "r2": float(r2_score(pred, target)) if len(pred) > 1 else float("nan"),
        }
    elif task == "multilabel":
        precision = multilabel_average_precision(pred, target.long(), target.size(1))
        values = {"average_precision": float(precision)}
    else:
        both = 0 < target.sum() < len(target)
        values = {
            "roc_auc": float(binary_auroc(pred, target.long())) if both else float("nan"),
            "accuracy": float(binary_accuracy(pred, target.long())),
        }
    if evaluator is not None:
        official = evaluator(pred, target)
        values.pop("roc_auc", None) if "rocauc" in official else None
        values = {**official, **{k: v for k, v in values.items() if k not in official}}
    return values


def environment(seed: int | None = None) -> dict:
    """How to run this again: command, seed if there is one, versions, machine, no paths."""
    names = ("torch", "torch_geometric", "torch_scatter", "lightning", "rdkit", "ogb")
    return {
        "command": command_line(),
        **({} if seed is None else {"seed": seed}),
        "versions": {"python": platform.python_version(), **{n: _version(n) for n in names}},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def plain(config) -> dict:
    """A dataclass as a dictionary, without what was left unset."""
    return {key: value for key, value in asdict(config).items() if value is not None}


def command_line() -> str:
    """The command as typed, with absolute paths cut to their last part."""
    spec = sys.modules["__main__"].__spec__
    start = Path(sys.argv[0]).name if spec is None else f"-m {spec.name}"
    # Also those of --out=/some/where and folder:/some/where.
    words = [re.sub(r"(^|[=:])/(.*/)?(?=[^/])", r"\1", word) for word in sys.argv[1:]]
    return shlex.join(["python", *start.split(), *words])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def print_table(heading: str, rows: dict[str, dict], console: Console | None = None) -> None:
    """The table at the end of a run.

    Args:
        heading: above the table.
        rows: model -> {"test": {metric: value}, "parameters", "seconds_per_epoch", "epochs"}.
        console: where to print; the terminal by default.
    """
    table = Table(title=heading)
    table.add_column("model")
    for metric in next(iter(rows.values()))["test"]:
        table.add_column(f"test {title(metric)}", justify="right")
    for column in ("parameters", "seconds per epoch", "epochs"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            title(name),
            *(f"{value:.3f}" for value in row["test"].values()),
            f"{row['parameters']:,}",
            f"{row['seconds_per_epoch']:.2f}",
            str(row["epochs"]),
        )
    (console or Console()).print(table)


def print_cells(heading: str, columns: list[str], cells: list[list[str]]) -> None:
    """A table of text, without rules, so that it fits a terminal; the first column is a name."""
    table = Table(title=heading, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console().print(table)


def print_note(text: str) -> None:
    """Plain text below a table."""
    Console().print(text, markup=False, highlight=False)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def plot_curves(path: Path, curves: dict[str, list[dict]], metric: str) -> None:
    """Training loss, and the validation metric, over the epochs.

    Args:
        path: PNG file.
        curves: model -> one dictionary per epoch, as ``History.epochs``.
        metric: name of the validation metric, without "valid_".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, epochs in curves.items():
        count = range(1, len(epochs) + 1)
        style = {"label": title(name), "color": COLOURS.get(name)}
        left.plot(count, [epoch["loss"] for epoch in epochs], **style)
        right.plot(count, [epoch[f"valid_{metric}"] for epoch in epochs], **style)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel=f"validation {title(metric)}")
    if metric in ("rmse", "mae", SEVERAL[0]):
        right.set_yscale("log")
    left.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_yscale() == "log":  # 0.5, not 5 x 10^-1
            axes.yaxis.set_major_formatter("{x:g}")
            low, high = axes.get_ylim()
            crowded = high > 20 * low
            axes.yaxis.set_minor_formatter(NullFormatter() if crowded else "{x:g}")
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)
    plt.close(figure)
