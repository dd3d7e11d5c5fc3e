"""The tables of docs/results.md, each a small function from result files to rows.

A table is a generator: its heading first, then its rows, as tuples of cells; short rows are filled
up. Where a result file is missing, ``results.one`` ends the table with a row that says so. To add
one, write such a function under ``@table("NAME")`` and put ``<!-- table: NAME -->`` and
``<!-- /table -->`` into the page.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from experiments.published import ARROW_POINTING
from experiments.reporting import title

NOT_RUN = "not run yet"
Rows = Iterator[tuple[str, ...]]


class NotRun(LookupError):
    """There is no such result file."""


class Results:
    """The result files in a folder, by their names without ``.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def one(self, name: str) -> dict:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            raise NotRun(name)
        return json.loads(path.read_text())

    def finished(self, name: str) -> list[dict]:
        """The results of all seeds, ``NAME_seedN``, whose runs are complete."""
        paths = sorted(self.folder.glob(f"{name}_seed*.json"))
        found = [json.loads(path.read_text()) for path in paths]
        return sorted((r for r in found if r["finished"]), key=lambda result: result["seed"])


TABLES: dict[str, Callable[[Results], Rows]] = {}


def table(name: str) -> Callable:
    """Register a table under the name it has in the page."""

    def register(function: Callable[[Results], Rows]) -> Callable[[Results], Rows]:
        TABLES[name] = function
        return function

    return register


def markdown(name: str, results: Results) -> str:
    """A table as the page has it, without a newline at its end."""
    rows: list[tuple[str, ...]] = []
    try:
        for row in TABLES[name](results):
            rows.append(row)
    except NotRun:
        rows.append((NOT_RUN,))
    heading, *body = ([*row, *[""] * (len(rows[0]) - len(row))] for row in rows)
    lines = ["| " + " | ".join(row) + " |" for row in (heading, *body)]
    lines.insert(1, "|" + "---|" * len(heading))
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def mean_sd(values: list[float], digits: int = 3) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


@table("speed of the forms")
def forms(results: Results) -> Rows:
    yield "64 molecule-like graphs, H=4, K=V=24", "ms", "edge loop / this"
    ops = results.one("benchmark")["ops"]
    labels = {
        "edge loop": "edge loop: every edge makes its own source and readout",
        "published": "the published program, forward and backward of its own",
        "naive": '`form="naive"`: a loop with sources and readouts batched',
    }
    for name, row in ops.items():
        graph, _, form = name.rpartition(": ")
        label = labels.get(name, f'{graph and graph + ", "}`form="{form}"`')
        yield label, f"{row['ms']:.1f}", f"{1 / row['ratio_to_edge loop']:.1f}"


#: Settings of the benchmark of layers.
THREADS = ("1 thread", "2 threads")


@table("speed of layers")
def layers(results: Results) -> Rows:
    yield (
        "one layer, 96 wide, 4 heads, edge features, line graph given",
        *(
            f"{text}, {threads}"
            for threads in THREADS
            for text in ("ms", "x GATv2Conv", "x GPSConv")
        ),
    )
    found = results.one("benchmark")["layers"]
    tables = {threads: found[threads] for threads in THREADS}
    for name in next(iter(tables.values())):
        rows = [table[name] for table in tables.values()]
        yield (
            name,
            *(
                f"{row[key]:.{digits}f}"
                for row in rows
                for key, digits in (("ms", 1), ("ratio_to_GATv2Conv", 2), ("ratio_to_GPSConv", 2))
            ),
        )


@table("speed of grid layers")
def grid_layers(results: Results) -> Rows:
    yield (
        "one grid layer, 16 x 16 patches, batch 4, 192 wide, 3 heads, 4 orientations",
        "ms",
        "loop / this",
    )
    for name, row in results.one("benchmark")["grid"]["layer"].items():
        loop = name.startswith("loop")
        label = "edge loop, image by image and orientation by orientation, recurrence alone"
        label = label if loop else name.replace(",", "")
        yield label, f"{row['ms']:.{0 if loop else 1}f}", f"{row['loop_over_this']:.1f}"


@table("speed of large grids")
def grids(results: Results) -> Rows:
    yield (
        "one image, P", "gating matrix, ms", "states by level, ms", "states by walk, ms",
        '`form="auto"`, ms',
    )  # fmt: skip
    rows = results.one("benchmark")["grid"]["growth"]
    for side in sorted({row["side"] for row in rows}):
        ms = {row["form"]: row["ms"] for row in rows if row["side"] == side}
        cells = (f"{ms[form]:.0f}" for form in ("gating", "levelwise", "walk", "auto"))
        yield f"{side} x {side} patches", *cells


@table("speed of sequences")
def sequences(results: Results) -> Rows:
    forms = ("levelwise", "chunkwise", "walk")
    yield (
        "sequence, H=4, K=V=24", *(f"{form}, ms" for form in forms), "levelwise / chunkwise",
        *(f"{form}, GB" for form in forms),
    )  # fmt: skip
    for row in results.one("benchmark")["long_sequences"]["rows"]:
        yield (
            f"{row['steps']:,} steps", *(f"{row[f'{form}_ms']:.1f}" for form in forms),
            f"{row['levelwise_over_chunkwise']:.1f}",
            *(f"{row[f'{form}_peak_gb']:.2f}" for form in forms),
        )  # fmt: skip


@table("images")
def images(results: Results) -> Rows:
    yield "test accuracy, seed 0", "pLSTM", "ViT", "CNN", "test images", "epochs", "parameters"
    for name in ("digits", "mnist"):
        label = {"digits": "8 x 8 digits", "mnist": "MNIST"}[name]
        try:
            found = results.one(f"grid_images_{name}")
        except NotRun:
            yield label, NOT_RUN
            continue
        rows = [found["models"][model] for model in ("plstm", "vit", "cnn")]
        yield (
            label, *(f"{row['test']['accuracy']:.3f}" for row in rows),
            f"{found['images']['test']:,}", str(found["protocol"]["epochs"]),
            " / ".join(f"{row['parameters']:,}" for row in rows),
        )  # fmt: skip


@table("arrow pointing")
def arrow_pointing(results: Results) -> Rows:
    """The six variants, and below them those that were also trained for longer."""
    heading = "mean of the seeds ± 90 % interval", "images", "test", "ext", "seeds"
    yield *heading, "published test / ext"
    studies = [results.one("arrow_pointing/report")]
    with suppress(NotRun):
        studies.append(results.one("arrow_pointing_long/report"))
    for study in studies:
        for variant, row in study["variants"].items():
            cells = [f"{study['settings']['data']['train_size'] * row['epochs']:,}"]
            for part in ("test", "ext"):
                half = row[f"{part}_half_width"]
                cells.append(f"{row[part]:.3f}" + ("" if half is None else f" ± {half:.3f}"))
            label = title(variant) if variant == "ViT" else f"pLSTM, {variant}"
            published = " / ".join(f"{value:.3f}" for value in ARROW_POINTING[variant])
            yield label, *cells, str(len(row["seeds"])), published


#: Models of the main job and their labels.
MAIN_JOB = {"plstm": "pLSTM + GINE", "gine": "GINE", "gatv2": "GATv2", "gps": "GPS"}


@table("main job")
def main_job(results: Results) -> Rows:
    yield "test RMSE in standard deviations", *MAIN_JOB.values()
    models = results.one("molecules_nci")["models"]
    models = {name: models[name] for name in MAIN_JOB}
    for key in models["plstm"]["test"]:
        values = {name: model["test"][key] for name, model in models.items()}
        best = min(values.values())
        cells = []
        for name, value in values.items():
            error = models[name].get("test_standard_error", {}).get(key)
            text = f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
            cells.append(f"**{text}**" if value == best else text)
        yield title(key), *cells
    yield "parameters", *(f"{model['parameters']:,}" for model in models.values())
    yield "seconds per epoch", *(f"{model['seconds_per_epoch']:.1f}" for model in models.values())
