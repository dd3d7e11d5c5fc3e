"""The charts of docs/results.md: means over folds or seeds with confidence intervals, and curves.

A picture carries the numbers that it shows, so that a check can tell whether it is up to date.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from textwrap import fill

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from datasets.ogb import NAMES as OGB
from experiments import published, tu_report
from experiments.arrow_report import CONFIDENCE, interval
from experiments.metrics import SEVERAL
from experiments.report_graph_tables import NA, PEPTIDES
from experiments.report_tables import NotRun, Results
from experiments.reporting import TITLES, title

#: What is shown: "title", "axis", "runs" (what the values are of), "bars" (label -> values),
#: "published" (label -> value) and "start" (where bars start, if not at 0 nor lower); or "curves"
#: (label -> values by epoch) in place of bars.
Chart = dict


def tu_sets(results: Results) -> Chart:
    """The mean over the four sets, fold by fold, of the rows with all of them."""
    rows = tu_report.read(results.folder) if any(results.folder.glob("tu_*.json")) else {}
    complete = {row: sets for row, sets in rows.items() if tu_report.complete(sets)}
    if not complete:
        raise NotRun("tu")
    bars = {title(row): tu_report.fold_means(sets) for row, sets in complete.items()}
    known = {row: published.TU[row]["AVG"] for row in published.TU}
    return {
        "title": "mean of the four TU sets", "axis": "test accuracy", "runs": "folds",
        "bars": bars,
        "published": {f"published {title(row)}": value for row, value in known.items()},
        "start": 0.5,  # chance
    }  # fmt: skip


def main_job(results: Results) -> Chart:
    models = results.one("molecules_nci")["models"]
    bars = {
        title(name): [run["test"][SEVERAL[0]] for run in model["runs"]]
        for name, model in models.items()
    }
    return {
        "title": "NCI molecules, seven targets", "axis": "mean test RMSE in standard deviations",
        "runs": "seeds", "bars": bars, "published": {},
    }  # fmt: skip


def neural_architectures(results: Results) -> Chart:
    runs = {name: results.finished(name) for name in NA}
    if missing := [name for name in NA if not runs[name]]:
        raise NotRun(missing[0])
    bars = {title(n.removeprefix("na_")): [r["test_rmse"] for r in runs[n]] for n in NA}
    return {
        "title": "neural architectures", "axis": "test RMSE", "runs": "seeds", "bars": bars,
        "published": {"published DAGNN": 0.264},
    }  # fmt: skip


def molhiv(results: Results) -> Chart:
    runs = {row: results.finished(f"ogb_{row}_{OGB[0]}") for row in TITLES}
    bars = {title(row): [run["test_roc_auc"] for run in found] for row, found in runs.items()}
    if not any(bars.values()):
        raise NotRun("ogb")
    known = published.OGB[OGB[0]]
    return {
        "title": OGB[0], "axis": "test ROC-AUC", "runs": "seeds",
        "bars": {label: values for label, values in bars.items() if values},
        "published": {f"published {title(row)}": value for row, value in known.items()},
        "start": 0.5,  # chance
    }  # fmt: skip


def peptides(results: Results) -> Chart:
    """Validation scores of the first seed of each row."""
    runs = {row: results.finished(f"peptides_{row}_{PEPTIDES}") for row in TITLES}
    curves = {
        title(row): [epoch["valid_average_precision"] for epoch in found[0]["epochs"]]
        for row, found in runs.items()
        if found
    }
    if not curves:
        raise NotRun("peptides")
    return {"title": PEPTIDES, "axis": "validation average precision", "curves": curves}


#: File in docs/ -> what it shows.
PLOTS: dict[str, Callable[[Results], Chart]] = {
    "tu.png": tu_sets,
    "molhiv.png": molhiv,
    "peptides.png": peptides,
    "nci.png": main_job,
    "na.png": neural_architectures,
}


def stored(path: Path) -> Chart | None:
    """What a picture says that it shows, if there is one."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return json.loads(image.text.get("Description", "null"))


def draw(path: Path, chart: Chart) -> None:
    """A chart as a picture that carries its numbers."""
    figure = _draw_curves(chart) if "curves" in chart else _draw_bars(chart)
    figure.savefig(path, dpi=120, metadata={"Description": json.dumps(chart)})
    plt.close(figure)


def _draw_curves(chart: Chart) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for label, values in chart["curves"].items():
        axes.plot(range(1, len(values) + 1), values, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(chart["axis"])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(chart["title"], fontsize=11)
    return figure


def _draw_bars(chart: Chart) -> Figure:
    """Bars with intervals, single folds or seeds as dots, published values as hollow bars."""
    bars, published = chart["bars"], chart["published"]
    labels = [f"{label} ({len(values)})" for label, values in bars.items()]
    labels = [fill(label, 36) for label in (*labels, *published)]
    height = 1.1 + 0.42 * len(labels)
    figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
    for place, (label, values) in enumerate(bars.items()):
        mean, half = interval(values)
        colour = "#e69f00" if label.startswith("pLSTM") else "#56b4e9"
        axes.barh(place, mean, 0.7, color=colour, xerr=half, capsize=3)
        # Below the interval's line, so that both are seen.
        axes.plot(values, [place + 0.2] * len(values), ".", color="#333333", markersize=4)
    for place, value in enumerate(published.values(), len(bars)):
        axes.barh(place, value, 0.7, color="none", edgecolor="#555555")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    lowest = min(min(values) for values in (*bars.values(), published.values()) if values)
    start = min(chart.get("start", 0), math.floor(10 * lowest) / 10)  # no bar lies outside
    axes.set_xlim(left=start)
    axes.set_xlabel(f"{chart['axis']}, bars from {start}" if start else chart["axis"])
    axes.grid(axis="x", alpha=0.3)
    runs = f"{chart['runs']} as dots, mean and its {CONFIDENCE:.0%} interval"
    figure.suptitle(f"{chart['title']}: {runs}", fontsize=11)
    return figure
