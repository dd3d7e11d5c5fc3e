"""Runs that are stopped and resumed at will: settings, results after each epoch, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from datasets.base import InputError
from experiments import reporting
from experiments.fitting import Protocol, make_trainer
from experiments.training import History

#: What may change between the parts of a run: it may go on elsewhere.
HARDWARE = ("accelerator", "devices", "strategy")

#: Options that some results files are older than, as those were run; later defaults may differ.
DEFAULTS = {
    "walks": 0,
    "protocol": {"ema": 0.0, "norm_batches": 0},
    "model": {"edge_features": True},
}

Summary = Callable[[list[dict[str, float]]], dict]


def lasting(protocol: Protocol) -> dict:
    """The fields of a protocol that all parts of a run share."""
    return {key: value for key, value in asdict(protocol).items() if key not in HARDWARE}


def earlier(path: Path, settings: dict) -> dict:
    """What an earlier run with the same settings has written; empty without one.

    Args:
        path: results file.
        settings: what it must say.

    Raises:
        InputError: if it says otherwise.
    """
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    wanted = json.loads(json.dumps(settings))  # as JSON has them: tuples are lists there
    found = _filled(found, wanted)
    if different := [key for key, value in wanted.items() if found.get(key) != value]:
        raise InputError(
            f"expected {path} to be of a run with the same settings, got another "
            f"{', '.join(different)}; remove it and its checkpoints, or choose another --out"
        )
    return found


def _filled(found: dict, wanted: dict, defaults: dict = DEFAULTS) -> dict:
    """``found`` with the wanted options that are newer than it."""
    found = dict(found)
    for key in defaults.keys() & wanted.keys():
        default = defaults[key]
        if not isinstance(default, dict):
            found.setdefault(key, default)
        elif key in found:
            found[key] = _filled(found[key], wanted[key], default)
    return found


class Progress(Callback):
    """Write the results so far after every epoch.

    Args:
        path: results file.
        settings: of the run, with its protocol.
        history: of the epochs.
        summary: from the epochs done, at least one, to what they come to.
    """

    def __init__(self, path: Path, settings: dict, history: History, summary: Summary) -> None:
        self.path, self.settings, self.history, self.summary = path, settings, history, summary

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        epochs, protocol = self.history.epochs, self.settings["protocol"]
        done = {"finished": len(epochs) >= protocol["epochs"], "epochs_done": len(epochs)}
        result = {
            **self.settings,
            **done,
            **(self.summary(epochs) if epochs else {}),
            **reporting.environment(protocol["seed"]),
        }
        reporting.write_json(self.path, {**result, "epochs": epochs})


def fit(
    module: L.LightningModule,
    train: DataLoader,
    evaluation: Sequence[DataLoader],
    protocol: Protocol,
    settings: dict,
    summary: Summary,
    path: Path,
    folder: Path,
    *,
    monitor: str,
    mode: str,
    callbacks: Sequence[Callback] = (),
) -> dict:
    """Train from the last checkpoint, if there is one, to the end; what ``path`` then holds.

    Args:
        module: to be trained.
        train: training batches.
        evaluation: batches of one or several sets for validation.
        protocol: how to train.
        settings: of the run, written with its results.
        summary: see :class:`Progress`.
        path: results file.
        folder: of logs and checkpoints: best.ckpt and last.ckpt.
        monitor: logged value that picks the best epoch.
        mode: "min" or "max" of it.
        callbacks: more of them; what they add to the history is written.
    """
    history = History()
    progress = Progress(path, settings, history, summary)
    keep = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, **keep)
    last = ModelCheckpoint(folder, "last", **keep)  # after best, whose state it holds
    logs = TensorBoardLogger(folder, "", "tensorboard")
    trainer = make_trainer(protocol, history, *callbacks, progress, best, last, logger=logs)
    checkpoint = folder / "last.ckpt"
    if not path.exists() and trainer.is_global_zero:
        checkpoint.unlink(missing_ok=True)  # of a run whose settings are unknown
        progress.write()  # the settings that later runs must share
    resumed = checkpoint if checkpoint.exists() else None
    trainer.fit(module, train, list(evaluation), ckpt_path=resumed)
    return json.loads(path.read_text())
