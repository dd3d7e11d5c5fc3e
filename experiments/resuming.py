"""Runs that can be stopped at any time: results and checkpoints after every epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

import datasets
from experiments import reporting
from experiments.training import History


class Progress(Callback):
    """Write the results so far after every epoch.

    Args:
        path: JSON file.
        settings: what a later run must share; has the number of epochs and the seed in "protocol".
        history: of the same trainer.
        summary: what to say of the epochs so far, at least one.
    """

    def __init__(
        self,
        path: Path,
        settings: dict,
        history: History,
        summary: Callable[[list[dict]], dict],
    ) -> None:
        self.path, self.settings = path, settings
        self.history, self.summary = history, summary

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        epochs, protocol = self.history.epochs, self.settings["protocol"]
        finished = len(epochs) >= protocol["epochs"]
        result = {**self.settings, "finished": finished, "epochs_done": len(epochs)}
        if epochs:
            result |= self.summary(epochs)
        environment = reporting.environment(protocol["seed"])
        reporting.write_json(self.path, {**result, **environment, "epochs": epochs})


def earlier(path: Path, settings: dict) -> dict:
    """What an earlier run with the same settings has written to ``path``; empty if none has.

    Raises:
        InputError: if that run had other settings.
    """
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    wanted = json.loads(json.dumps(settings))  # as JSON has them: tuples are lists there
    if different := [key for key, value in wanted.items() if found.get(key) != value]:
        raise datasets.InputError(
            f"expected {path} to be of a run with the same settings, got another "
            f"{', '.join(different)}; remove it and its folder, or choose another --out"
        )
    return found


def checkpoints(folder: Path, monitor: str, mode: str) -> list[ModelCheckpoint]:
    """Callbacks that keep ``best.ckpt`` and ``last.ckpt`` in a folder, after every epoch."""
    keep = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, **keep)
    return [best, ModelCheckpoint(folder, "last", **keep)]  # last after best, whose state it holds


def resume_from(folder: Path, progress: Progress, trainer: L.Trainer) -> Path | None:
    """The checkpoint to go on from, if there is one; writes the settings of a new run.

    A checkpoint without results beside it is of a run whose settings are unknown: it is removed.
    """
    checkpoint = folder / "last.ckpt"
    if not progress.path.exists() and trainer.is_global_zero:
        checkpoint.unlink(missing_ok=True)
        progress.write()
    return checkpoint if checkpoint.exists() else None
