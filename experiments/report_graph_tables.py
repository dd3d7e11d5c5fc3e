"""Tables of graph benchmarks; see :mod:`experiments.report_tables`."""

from __future__ import annotations

import statistics

from datasets.ogb import NAMES as OGB
from experiments import dags, graph_report, published, tu_report
from experiments.report_tables import NOT_RUN, NotRun, Results, Rows, mean_sd, table
from experiments.reporting import TITLES, title

PEPTIDES = "peptides-func"
NA = ("na_plstm", "na_dag_lstm", "na_gcn")


@table("TU sets")
def tu_sets(results: Results) -> Rows:
    yield tuple(tu_report.HEADING)
    if not any(results.folder.glob("tu_*.json")):
        raise NotRun("tu")
    yield from map(tuple, tu_report.cells(results.folder))


@table("OGB")
def ogb_molecules(results: Results) -> Rows:
    heading = [name.removeprefix("ogbg-") for name in OGB]
    metrics = ["ROC-AUC", *["RMSE"] * 3]
    yield "test", *map(", ".join, zip(heading, metrics)), "parameters", "s/epoch"
    rows = {row: [results.finished(f"ogb_{row}_{name}") for name in OGB] for row in TITLES}
    for row, sets in rows.items():
        if some := next(filter(None, sets), None):
            seconds = statistics.mean(run["train_seconds_per_epoch"] for run in some)
            scores = ([run[f"test_{run['metric']}"] for run in runs] for runs in sets)
            cells = (f"{mean_sd(values)} ({len(values)})" if values else "" for values in scores)
            yield title(row), *cells, f"{some[0]['parameters']:,}", f"{seconds:.1f}"
    if not any(map(any, rows.values())):
        yield (NOT_RUN,)
    for row, score in published.OGB[OGB[0]].items():
        yield f"{title(row)}, published", f"{score:.3f}"


@table("Peptides-func")
def peptides(results: Results) -> Rows:
    rows = {row: results.finished(f"peptides_{row}_{PEPTIDES}") for row in TITLES}
    found = {row: runs for row, runs in rows.items() if runs}
    heading, cells = graph_report.table(found, published.PEPTIDES[PEPTIDES])
    yield tuple(heading)
    if not found:
        raise NotRun("peptides")
    yield from map(tuple, cells)


@table("neural architectures")
def neural_architectures(results: Results) -> Rows:
    yield "model", "test RMSE", "test r", "seeds", "parameters", "seconds per epoch"
    for name in NA:
        label, runs = title(name.removeprefix("na_")), results.finished(name)
        if not runs:
            yield label, NOT_RUN
            continue
        metrics = (mean_sd([run[f"test_{metric}"] for run in runs]) for metric in dags.PUBLISHED)
        seconds = statistics.median(run["seconds_per_epoch"] for run in runs)
        yield label, *metrics, str(len(runs)), f"{runs[0]['parameters']:,}", f"{seconds:.1f}"
    yield "published DAGNN", *(f"{value:.3f}" for value in dags.PUBLISHED.values())
