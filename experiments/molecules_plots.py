"""Pictures of the main job: predictions of the test set, and the errors of several targets."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter
from sklearn.metrics import roc_curve
from torch import Tensor

from experiments.metrics import standardised_errors
from experiments.reporting import COLOURS, title


def plot_predictions(
    path: Path,
    task: str,
    preds: dict[str, Tensor],
    target: Tensor,
    names: list[str],
    std: Tensor,
) -> None:
    """Predicted against true values of the test set, a row for each target, or ROC curves.

    Args:
        path: PNG file.
        task: "regression" or "binary".
        preds: model -> [B] or [B, T] predictions.
        target: [B] or [B, T].
        names: of the targets.
        std: [T] standard deviations of the training targets: the unit of the errors of several
            targets.
    """
    if task == "binary":
        figure = _roc_curves(preds, target, names[0])
    else:
        figure = _scatter(preds, target, names, std if target.dim() > 1 else torch.tensor(1.0))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _roc_curves(preds: dict[str, Tensor], target: Tensor, label: str) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    for name, pred in preds.items():
        false, true, _ = roc_curve(target.numpy(), pred.numpy())
        axes.plot(false, true, label=title(name), color=COLOURS.get(name))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.set_title(f"{title(label)}: test set")
    axes.legend()
    return figure


def _scatter(preds: dict[str, Tensor], target: Tensor, names: list[str], std: Tensor) -> plt.Figure:
    """A grid of panels [T targets, models]."""
    target = target.reshape(len(target), -1)
    size = 4.0 if len(names) == 1 else 2.4
    figure, grid = plt.subplots(
        len(names), len(preds), figsize=(size * len(preds), size * len(names)), sharex="row",
        sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    for column, (model, pred) in zip(grid.T, preds.items()):
        pred = pred.reshape(len(pred), -1)
        errors = standardised_errors(pred, target, std)
        for i, (axes, error) in enumerate(zip(column, errors.tolist())):
            true = target[:, i]
            ends = [float(true.min()), float(true.max())]
            axes.scatter(true, pred[:, i], s=8, alpha=0.6, color=COLOURS.get(model), linewidths=0)
            axes.plot(ends, ends, color="grey", linewidth=0.8, linestyle="--")
            axes.set_title(f"{title(model)}: {error:.3f}", fontsize="medium")
            axes.grid(alpha=0.3)
    for axes, name in zip(grid[:, 0], names):
        axes.set_ylabel(f"predicted {title(name)}")
    for axes in grid[-1]:
        axes.set_xlabel("true" if len(names) > 1 else f"true {title(names[0])}")
    unit = " in standard deviations" if len(names) > 1 else ""
    figure.suptitle(f"test set, RMSE{unit}")
    return figure


def plot_targets(path: Path, errors: dict[str, dict[str, list[float]]], reference: str) -> None:
    """Bars of the error of each target, and each model's ratio to the reference.

    Args:
        path: PNG file.
        errors: model -> target -> its error with each seed.
        reference: model whose error is 1 in the ratios; without it, there are no ratios.
    """
    targets = list(next(iter(errors.values())))
    others = [name for name in errors if name != reference]
    ratios = bool(others) and reference in errors
    figure, panels = plt.subplots(
        1, 1 + ratios, figsize=(6 + 5 * ratios, 1.5 + 0.7 * len(targets)), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    left = panels[0, 0]
    for i, (name, values) in enumerate(errors.items()):
        style = {"height": 0.8 / len(errors), "color": COLOURS.get(name), "label": title(name)}
        places = [row + (i + 0.5) * 0.8 / len(errors) - 0.4 for row in range(len(targets))]
        left.barh(places, [statistics.fmean(values[target]) for target in targets], **style)
        for place, target in zip(places, targets):
            if len(values[target]) > 1:
                seeds = values[target]
                left.plot(seeds, [place] * len(seeds), "k.", markersize=3)
    left.set_yticks(range(len(targets)), [title(target) for target in targets])
    left.invert_yaxis()
    left.set(xlabel="test RMSE in standard deviations of the training targets")
    left.grid(alpha=0.3, axis="x")
    left.legend()
    if ratios:
        _plot_ratios(panels[0, 1], errors, targets, others, reference)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_ratios(
    axes: plt.Axes,
    errors: dict[str, dict[str, list[float]]],
    targets: list[str],
    models: list[str],
    reference: str,
) -> None:
    """Bars from 1 to the ratio of mean errors, on a logarithmic axis: to the left is better."""
    for i, name in enumerate(models):
        height = 0.8 / len(models)
        for row, target in enumerate(targets):
            ratio = statistics.fmean(errors[name][target]) / statistics.fmean(
                errors[reference][target]
            )
            place = row + (i + 0.5) * height - 0.4
            axes.barh(place, ratio - 1, height, left=1, color=COLOURS.get(name))
            axes.annotate(
                f"{ratio:.2f}", (ratio, place), (3 if ratio >= 1 else -3, 0),
                textcoords="offset points", va="center", fontsize="small",
                ha="left" if ratio >= 1 else "right",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    low, high = axes.get_xlim()
    if high > 6 * low:
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"error / error of {title(reference)}: left of 1 is better")
    axes.grid(alpha=0.3, axis="x")
