"""What a run leaves: a table, metrics.json, test predictions, pictures and a model card."""

from __future__ import annotations

import csv
import io
import platform
import shlex
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from plstm_graph.molecules import pictures
from plstm_graph.molecules.console import Voice
from plstm_graph.molecules.data import MoleculeSet
from plstm_graph.molecules.evaluation import Group, Trained
from plstm_graph.molecules.metrics import METRICS
from plstm_graph.molecules.options import TrainOptions
from plstm_graph.molecules.splits import PARTS
from plstm_graph.molecules.store import ModelConfig, write_atomically, write_json

PACKAGES = ("plstm-graph", "torch", "torch-geometric", "rdkit", "lightning", "scikit-learn")
#: Targets with a row of their own in the table and the model card.
MOST_ROWS = 40
OVERALL = "all targets"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(
    out: Path,
    config: ModelConfig,
    trained: list[Trained],
    groups: list[Group],
    data: MoleculeSet,
    options: TrainOptions,
    settings: dict,
    command: Sequence[str],
    voice: Voice,
) -> dict:
    """Write everything, print the table; what metrics.json holds is returned."""
    made_with = versions()
    summary = summarize(config, groups)
    results = {
        "task": config.task,
        "targets": config.targets,
        "classes": config.classes,
        "units": "overall rmse and mae are in standard deviations of the training targets"
        if config.task == "regression" and len(config.targets) > 1
        else "those of the targets",
        "molecules": {part: len(trained[0].parts[part]) for part in PARTS},
        "test": summary,
        "splits": [
            {"seed": g.seed, "fold": g.fold, "molecules": len(g.rows), **g.scores.as_dict()}
            for g in groups
        ],
        "networks": [
            {
                "file": one.member.file,
                "seed": one.member.seed,
                "fold": one.member.fold,
                "member": one.member.number,
                "best_epoch": one.best + 1,
                "picked_by": one.monitor,
                "why": one.why,
                "epochs": one.epochs,
            }
            for one in trained
        ],
        "notes": data.notes,
        **settings,
        "versions": made_with,
    }
    write_json(out / "metrics.json", results)
    write_atomically(out / "test_predictions.csv", _predictions(config, groups, data))
    pictures.curves(out / "curves.png", trained)
    name = pictures.predictions(out, config, groups, data)
    card = model_card(config, trained, data, options, settings, command, made_with, summary, groups)
    write_atomically(out / "model_card.md", card)
    voice.say(table(config, summary, len(groups), data.path.name))
    for line in undefined(groups):
        voice.say(line)
    voice.say(
        f"{out}: metrics.json, test_predictions.csv, curves.png, {name}, model_card.md, model/"
    )
    return results


def summarize(config: ModelConfig, groups: list[Group]) -> dict[str, dict[str, dict]]:
    """Target -> metric -> mean and standard deviation over splits, or null."""
    several = len(config.targets) > 1
    rows = [*config.targets, *([OVERALL] if several else [])]
    out: dict[str, dict[str, dict]] = {}
    for row in rows:
        out[row] = {}
        for metric in METRICS[config.task]:
            values = [
                (g.scores.overall if row == OVERALL and several else g.scores.targets[row])[metric]
                for g in groups
            ]
            known = [value for value in values if value is not None]
            out[row][metric] = {
                "mean": statistics.fmean(known) if known else None,
                "std": statistics.stdev(known) if len(known) > 1 else None,
                "splits": len(known),
            }
    return out


def _cell(value: dict) -> str:
    if value["mean"] is None:
        return "-"
    spread = f" ± {value['std']:.3g}" if value["std"] is not None else ""
    return f"{value['mean']:.4g}{spread}"


def _shown(summary: dict) -> list[str]:
    rows = list(summary)
    if len(rows) <= MOST_ROWS:
        return rows
    return [*rows[: MOST_ROWS - 1], rows[-1]]


def table(config: ModelConfig, summary: dict, splits: int, name: str) -> Table:
    """A row for each target, a column for each metric."""
    spread = f"; mean ± standard deviation over {splits} splits" if splits > 1 else ""
    made = Table(title=f"{name} ({config.task}): test set{spread}", box=box.SIMPLE)
    made.add_column("target", overflow="fold", min_width=14)
    for metric in METRICS[config.task]:
        made.add_column(metric.replace("_", " "), justify="right", no_wrap=True)
    shown = _shown(summary)
    for row in shown:
        if row == OVERALL:
            made.add_section()
        made.add_row(row, *(_cell(value) for value in summary[row].values()))
    if len(shown) < len(summary):
        made.caption = f"{len(summary) - len(shown)} more targets in metrics.json"
    return made


def undefined(groups: list[Group]) -> list[str]:
    """One line for each reason why metrics have no value."""
    reasons: dict[str, dict[str, None]] = {}
    for group in groups:
        for what, why in group.scores.why.items():
            reasons.setdefault(why, {})[what] = None
    lines = []
    for why, what in reasons.items():
        names = list(what)
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        lines.append(f"not computed ({why} in the test set): {', '.join(names[:6])}{more}")
    return lines


def _predictions(config: ModelConfig, groups: list[Group], data: MoleculeSet) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    true = [f"{name}_true" for name in config.targets]
    spread = [f"{name}_spread" for name in config.columns]
    writer.writerow(["seed", "fold", "row", "smiles", *true, *config.columns, *spread])
    for group in groups:
        for row, pred, deviation in zip(group.rows, group.pred, group.spread):
            values = data.targets.values[row]
            known = ["" if np.isnan(v) else f"{v:.10g}" for v in values]
            if config.classes:
                known = ["" if np.isnan(values[0]) else config.classes[int(values[0])]]
            numbers = [
                "" if np.isnan(v) else f"{v:.{max(0, d)}f}"
                for part in (pred, deviation)
                for v, d in zip(part.tolist(), config.decimals)
            ]
            writer.writerow(
                [group.seed, group.fold, data.rows[row], data.smiles[row], *known, *numbers]
            )
    return buffer.getvalue()


def model_card(
    config: ModelConfig,
    trained: list[Trained],
    data: MoleculeSet,
    options: TrainOptions,
    settings: dict,
    command: Sequence[str],
    made_with: dict[str, str],
    summary: dict,
    groups: list[Group],
) -> str:
    """Markdown: what the model predicts, how well, and how it was made."""
    first = trained[0]
    metrics = METRICS[config.task]
    lines = [
        f"# {data.path.name}: {', '.join(config.targets[:6])}",
        "",
        f"A model of the task *{config.task}* for molecules, of {len(trained)} pLSTM "
        f"network{'s' * (len(trained) > 1)} trained with plstm-graph {made_with['plstm-graph']}.",
        "",
        "## Test set",
        "",
        f"Split: {' '.join(options.split)}, seeds {options.seeds}; "
        + ", ".join(f"{len(first.parts[part])} {part}" for part in PARTS)
        + " molecules.",
        "",
        f"| target | {' | '.join(metric.replace('_', ' ') for metric in metrics)} |",
        f"|---|{'---|' * len(metrics)}",
    ]
    lines += [
        f"| {row} | {' | '.join(_cell(value) for value in summary[row].values())} |"
        for row in _shown(summary)
    ]
    lines += ["", *(f"- {line}" for line in undefined(groups))]
    if config.task == "regression" and len(config.targets) > 1:
        lines.append("- Over all targets, errors are in standard deviations of training targets.")
    lines += [f"- {first.why}."]
    lines += [
        "",
        "## Data",
        "",
        f"- file: `{settings['data']['name']}`, SHA-256 `{settings['data']['sha256']}`",
        *(f"- {note}" for note in data.notes),
        "",
        "## Made with",
        "",
        f"```\n{shlex.join(['plstm-graph', *list(command)[1:]])}\n```",
        "",
        *(f"- {name} {number}" for name, number in made_with.items()),
        "",
        "## Limits",
        "",
        "- Predictions for molecules unlike those of the training set are extrapolations; the "
        "spread over orientations and networks does not cover all of their error.",
        "- Three-dimensional structure, tautomers and protonation states are read as they are "
        "written.",
        "",
    ]
    return "\n".join(lines)
