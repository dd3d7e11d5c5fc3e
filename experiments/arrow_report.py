"""The table and the picture of the arrow-pointing study, from the results of its runs."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

import datasets
from experiments import reporting
from experiments.published import ARROW_POINTING

CONFIDENCE = 0.9
COLOURS = ("#d55e00", "#e69f00", "#0072b2", "#009e73", "#56b4e9", "#555555")
LEGEND = (
    "Accuracy at the first epoch of best validation accuracy, mean over seeds and its "
    f"{CONFIDENCE:.0%} confidence interval (Student t). Validation images have the training size; "
    "ext, images of twice the side, selects nothing. Half of the images point: 0.5 is chance. "
    "The task has a shortcut: in the proportions of the published images a rule that sees the "
    "arrow alone, and no circle, reaches about .92 on test and .64 on ext. Published: test and ext "
    "at 192 pixels, 100,000 images an epoch, 50 epochs, 5 seeds; only runs of that size compare. "
    "* not all epochs done: its numbers are those so far."
)


def interval(values: list[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its confidence interval, which one value does not have."""
    count, mean = len(values), statistics.mean(values)
    if count < 2:
        return mean, None
    quantile = float(student.ppf(0.5 + CONFIDENCE / 2, count - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(count)


def report(folder: Path, out: Path | None = None) -> dict:
    """Print the table of all runs in a folder; write report.md, report.json and curves.png.

    Args:
        folder: of the results, --out of the training.
        out: where to write; default the folder itself.
    """
    runs = read(folder)
    rows = {variant: _row(runs[variant]) for variant in ARROW_POINTING if variant in runs}
    result = {
        "confidence": CONFIDENCE,
        "legend": LEGEND,
        "settings": {key: _common(runs, key) for key in ("data", "protocol")},
        "variants": rows,
    }
    table = [_cells(variant, row) for variant, row in rows.items()]
    heading = ["variant", "test", "ext", "published", "seeds", "epochs", "parameters", "images/s"]
    _print(result["settings"]["data"], heading[:6], table)  # the rest is too wide for a terminal
    out = out or folder
    reporting.write_json(out / "report.json", result)
    lines = [heading, ["---"] * len(heading), *table]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (out / "report.md").write_text(f"{text}\n{LEGEND}\n")
    plot_curves(out / "curves.png", runs)
    return result


def read(folder: Path) -> dict[str, list[dict]]:
    """Variant -> its runs that have done an epoch, by seed."""
    if not folder.is_dir():
        raise datasets.InputError(f"expected the folder of a training run, got {folder}: no folder")
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*_seed*.json"))]
    runs: dict[str, list[dict]] = {}
    for run in sorted(found, key=lambda run: run["seed"]):
        if run["epochs_done"]:
            runs.setdefault(run["variant"], []).append(run)
    if not runs:
        raise datasets.InputError(
            f"expected results VARIANT_seedN.json with an epoch done in {folder}, got none; "
            f"train first, with --out {folder}"
        )
    return runs


def _common(runs: dict[str, list[dict]], key: str) -> dict:
    """The settings under a key that all runs share."""
    every = [run[key] for group in runs.values() for run in group]
    first = every[0]
    return {k: v for k, v in first.items() if all(other.get(k) == v for other in every)}


def _row(runs: list[dict]) -> dict:
    row = {}
    for part in ("test", "ext"):
        values = [run[f"{part}_accuracy"] for run in runs]
        row[part], row[f"{part}_half_width"] = interval(values)
        row[f"{part}_seeds"] = values
    return row | {
        "seeds": [run["seed"] for run in runs],
        "finished": sum(run["finished"] for run in runs),
        "epochs_done": [run["epochs_done"] for run in runs],
        "epochs": runs[0]["protocol"]["epochs"],
        "best_epochs": [run["best_epoch"] for run in runs],
        "parameters": runs[0]["parameters"],
        "train_images_per_second": [round(run["train_images_per_second"], 1) for run in runs],
    }


def _cells(variant: str, row: dict) -> list[str]:
    def accuracy(part: str) -> str:
        half = row[f"{part}_half_width"]
        return f"{row[part]:.3f}" + ("" if half is None else f" ± {half:.3f}")

    least, most = min(row["epochs_done"]), max(row["epochs_done"])
    done = str(least) if least == most else f"{least}-{most}"
    rates = row["train_images_per_second"]
    return [
        variant + ("" if row["finished"] == len(row["seeds"]) else " *"),
        accuracy("test"),
        accuracy("ext"),
        " / ".join(f"{value:.3f}" for value in ARROW_POINTING[variant]),
        str(len(row["seeds"])),
        f"{done}/{row['epochs']}",
        f"{row['parameters']:,}",
        f"{statistics.mean(rates):.0f}",
    ]


def _print(data: dict, heading: list[str], table: list[list[str]]) -> None:
    side = data.get("image_size")
    sizes = f"{side} and {2 * side} pixels" if side else "several sizes of images"
    # Without rules, so that it fits a terminal of 80 columns.
    view = Table(title=f"Arrow pointing, {sizes}", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in heading:
        view.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for cells in table:
        view.add_row(*cells[: len(heading)])
    console = Console()
    console.print(view)
    console.print(LEGEND, markup=False, highlight=False)


def plot_curves(path: Path, runs: dict[str, list[dict]]) -> None:
    """Validation and ext accuracy over the epochs: means over seeds, confidence as bands."""
    figure, row = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axes, part, title in zip(row, ("valid", "ext"), ("validation", "ext: twice the side")):
        for variant, colour in zip(ARROW_POINTING, COLOURS):
            if variant not in runs:
                continue
            curves = [
                [epoch[f"{part}_accuracy"] for epoch in run["epochs"]] for run in runs[variant]
            ]
            # Up to where all seeds have come.
            points = [interval(list(values)) for values in zip(*curves)]
            count, mean = range(1, len(points) + 1), [point[0] for point in points]
            style = {"color": colour, "linestyle": "--" if variant == "ViT" else "-"}
            axes.plot(count, mean, label=f"{variant} ({len(curves)})", **style)
            half = [point[1] or 0.0 for point in points]
            low, high = ([m + sign * h for m, h in zip(mean, half)] for sign in (-1, 1))
            axes.fill_between(count, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=title, xlabel="epoch", ylim=(0.4, 1.01))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    row[0].set_ylabel("accuracy")
    figure.legend(
        *row[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False,
        title=f"variant (seeds); bands: {CONFIDENCE:.0%} confidence",
    )  # fmt: skip
    figure.savefig(path, dpi=120)
    plt.close(figure)
