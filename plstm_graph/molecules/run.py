"""A training run: data, splits, networks, and what it leaves in its folder.

A folder belongs to one set of options and one file of molecules. Called again with the same ones,
``train`` goes on where it stopped; networks that are finished are read, not trained again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from plstm_graph.molecules.batches import draw_of
from plstm_graph.molecules.console import Voice, quiet
from plstm_graph.molecules.data import MoleculeSet, load
from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.evaluation import Trained, evaluate
from plstm_graph.molecules.model import Architecture, MoleculeNet
from plstm_graph.molecules.options import TrainOptions
from plstm_graph.molecules.predictor import device_of
from plstm_graph.molecules.splits import PARTS, Parts
from plstm_graph.molecules.store import (
    Member,
    ModelConfig,
    load_weights,
    save_weights,
    write_json,
)
from plstm_graph.molecules.targets import quantum
from plstm_graph.molecules.task import Task
from plstm_graph.molecules.training import fit, forget

#: What may change between the parts of a run: it may go on elsewhere.
ELSEWHERE = ("input", "out", "accelerator", "workers", "cache")


def train(
    options: TrainOptions, voice: Voice | None = None, command: Sequence[str] | None = None
) -> dict:
    """Train on a file of molecules.

    Args:
        options: of the run.
        voice: prints notes and the table.
        command: kept in the model card. Default: that of the process.

    Returns:
        What metrics.json holds.
    """
    from plstm_graph.molecules import report

    quiet()
    voice = voice or Voice()
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"expected out as a folder, got the file {out}; choose another name")
    device_of(options.accelerator)
    data = load(options, voice)
    settings = _settings(options, data.digest)
    resumed = _claim(out, settings)
    for note in data.notes:
        voice.say(note)
    plans = _plans(options, data)
    voice.say(_describe(data, plans, options))
    if resumed:
        voice.say(f"going on with the run in {out}")
    trained = [_member(*plan, options, data, out, voice) for plan in plans]
    config = _config(options, data, trained)
    config.write(out / "model")
    groups = evaluate(config, trained, data, options, voice)
    results = report.write(
        out, config, trained, groups, data, options, settings, command or sys.argv, voice
    )
    return results


def _settings(options: TrainOptions, digest: str) -> dict:
    kept = {key: value for key, value in asdict(options).items() if key not in ELSEWHERE}
    kept["split"] = list(options.split)
    return {"options": kept, "data": {"name": Path(options.input).name, "sha256": digest}}


def _claim(out: Path, settings: dict) -> bool:
    """Make the folder of a run its own; whether an earlier call has begun it.

    Raises:
        InputError: if the folder is of another run, or of something else.
    """
    path = out / "settings.json"
    if not path.is_file():
        if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
            raise InputError(
                f"expected out as a new folder or that of a run, got {out}, which holds other "
                f"files; choose another --out"
            )
        write_json(path, settings)
        return False
    try:
        found = json.loads(path.read_text())
        data, kept = found["data"], found["options"]
        differ = [key for key, value in settings["options"].items() if kept.get(key) != value]
        other = data["sha256"] != settings["data"]["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"expected {path} as plstm-graph train wrote it, got a broken file; remove the folder "
            f"{out}, or choose another --out"
        ) from None
    if differ or other:
        what = ["molecules"] * other + differ
        raise InputError(
            f"expected {out} to be of a run with the same options, got another "
            f"{', '.join(what)}; remove it, or choose another --out"
        )
    return True


def _plans(
    options: TrainOptions, data: MoleculeSet
) -> list[tuple[int, int, int, int, Parts, Task]]:
    """(index, seed, fold, number, parts, task) of each network."""
    plans = []
    for seed in options.seed_list():
        for fold, parts in enumerate(data.splits(options, seed)):
            task = Task(data.targets, data.weight, parts["train"].numpy(), options.class_balance)
            for number in range(options.ensemble):
                plans.append((len(plans), seed, fold, number, parts, task))
    return plans


def _describe(data: MoleculeSet, plans: list, options: TrainOptions) -> str:
    parts = plans[0][4]
    sizes = ", ".join(f"{len(parts[part])} {part}" for part in PARTS)
    names = data.targets.names
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    models = f"; {len(plans)} networks" if len(plans) > 1 else ""
    split = " ".join(options.split)
    return f"{data.path.name}: {data.targets.task}, {sizes} (split: {split}); {shown}{models}"


def _member(
    index: int,
    seed: int,
    fold: int,
    number: int,
    parts: Parts,
    task: Task,
    options: TrainOptions,
    data: MoleculeSet,
    out: Path,
    voice: Voice,
) -> Trained:
    """Train a network, or read it if it is finished."""
    member = Member(f"member_{index:02d}.pt", seed, fold, number, task.mean.tolist(),
                    task.std.tolist())  # fmt: skip
    path, record = out / "model" / member.file, out / "state" / f"member_{index:02d}.json"
    if not (record.is_file() and path.is_file()):
        draw = draw_of(seed, fold, number)
        torch.manual_seed(draw)
        net = MoleculeNet(architecture_of(options, data))
        done = fit(
            net, data.graphs, data.seeds, parts, task, options, draw,
            out / "state" / f"member_{index:02d}", progress=voice.moving,
        )  # fmt: skip
        save_weights(path, done.state)
        kept = {"epochs": done.epochs, "best": done.best, "monitor": done.monitor, "why": done.why}
        write_json(record, kept)
        forget(out / "state" / f"member_{index:02d}")
    else:
        load_weights(path)
    try:
        kept = json.loads(record.read_text())
        trained = Trained(
            member, parts, kept["epochs"], kept["best"], kept["monitor"], kept["why"], task
        )
        best = trained.epochs[trained.best]
    except (ValueError, KeyError, IndexError, TypeError):
        raise InputError(
            f"expected {record} as an earlier call wrote it, got a broken file; remove it to train "
            f"this network again"
        ) from None
    if index == 0:
        for note in (*task.notes(), trained.why):
            voice.say(note)
    seconds = sum(epoch["seconds"] for epoch in trained.epochs)
    voice.say(
        f"network {index + 1} (seed {seed}, fold {fold}, member {number}): "
        f"{len(trained.epochs)} epochs in {seconds:.0f} s, best validation {trained.monitor} "
        f"{best[f'valid_{trained.monitor}']:.4f} in epoch {trained.best + 1}"
    )
    return trained


def architecture_of(options: TrainOptions, data: MoleculeSet) -> Architecture:
    return Architecture(
        data.targets.outputs,
        options.hidden,
        options.layers,
        options.heads,
        options.dropout,
        options.local,
    )


def _config(options: TrainOptions, data: MoleculeSet, trained: list[Trained]) -> ModelConfig:
    targets = data.targets
    decimals = [6] * targets.outputs
    if targets.task == "regression":
        decimals = [quantum(std) for std in trained[0].task.std.tolist()]
    return ModelConfig(
        targets.task,
        targets.names,
        targets.classes,
        architecture_of(options, data).as_dict(),
        options.orientation,
        decimals,
        [one.member for one in trained],
    )
