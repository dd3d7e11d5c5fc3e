"""One run of the arrow-pointing study: a variant with a seed, stopped and resumed at will."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

import datasets
from experiments import reporting
from experiments.arrow_report import chosen_epoch
from experiments.fitting import Protocol, make_trainer
from experiments.image_training import EVAL_FACTOR, loader, make_module
from experiments.models import count_parameters
from experiments.training import History
from experiments.vision_models import VisionConfig

PARTS = ("valid", "test", "ext")


class ArrowBatches(torch.utils.data.Dataset):
    """The images of a split in their order, which is random already, batch by batch."""

    def __init__(self, images: datasets.ArrowPointing, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.set_epoch = images.set_epoch

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.batch_size
        return self.images.batch(range(start, min(start + self.batch_size, len(self.images))))


class Progress(Callback):
    """Write the results so far after every epoch."""

    def __init__(self, path: Path, settings: dict, history: History) -> None:
        self.path, self.settings, self.history = path, settings, history
        self.epochs = settings["protocol"]["epochs"]

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        epochs = self.history.epochs
        result = {**self.settings, "finished": len(epochs) >= self.epochs, "epochs_done": 0}
        if epochs:
            best = chosen_epoch(epochs)
            images = self.settings["data"]["train_size"]
            seconds = sum(epoch["train_seconds"] for epoch in epochs)
            result |= {f"{part}_accuracy": epochs[best][f"{part}_accuracy"] for part in PARTS}
            result |= {"best_epoch": best + 1, "epochs_done": len(epochs)}
            result["train_images_per_second"] = images * len(epochs) / seconds
        environment = reporting.environment(self.settings["protocol"]["seed"])
        reporting.write_json(self.path, {**result, **environment, "epochs": epochs})


def run(settings: dict, config: VisionConfig, protocol: Protocol, out: Path) -> dict:
    """One variant with one seed, from its last checkpoint if there is one; its results."""
    seed, data = protocol.seed, settings["data"]
    slug = settings["variant"].lower().replace("+", "").replace(" ", "_") + f"_seed{seed}"
    path, folder = out / f"{slug}.json", out / slug
    earlier = _earlier(path, settings)
    if earlier.get("finished"):
        return earlier
    L.seed_everything(seed, workers=True, verbose=False)
    shape = {"image_size": data["image_size"], "scale": data["scale"]}
    train_images = datasets.ArrowPointing("train", data["train_size"], seed=seed, **shape)
    # One set for all seeds; its stream is none of the training's.
    counts = (data["valid_size"], data["test_size"], data["test_size"])
    sets = [datasets.ArrowPointing(p, count, **shape) for p, count in zip(PARTS, counts)]
    # Batches of about the same memory, though an image of ext has four times the pixels.
    size = EVAL_FACTOR * protocol.batch_size
    sizes = (size, size, max(1, size // 4))
    # White, most of every image, becomes 0.
    module = make_module(config, [1.0], [0.5], protocol, PARTS)
    settings = {**settings, "parameters": count_parameters(module.net)}

    history = History()
    progress = Progress(path, settings, history)
    keep = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(folder, "best", monitor="valid_accuracy", mode="max", **keep)
    last = ModelCheckpoint(folder, "last", **keep)  # after best, whose state it holds
    logs = TensorBoardLogger(folder, "", "tensorboard")
    trainer = make_trainer(protocol, history, progress, best, last, logger=logs)
    checkpoint = folder / "last.ckpt"
    if not path.exists() and trainer.is_global_zero:
        checkpoint.unlink(missing_ok=True)  # of a run whose settings are unknown
        progress.write()  # the settings that later runs must share
    trainer.fit(
        module,
        loader(ArrowBatches(train_images, protocol.batch_size)),
        [loader(ArrowBatches(images, size)) for images, size in zip(sets, sizes)],
        ckpt_path=checkpoint if checkpoint.exists() else None,
    )
    return json.loads(path.read_text())


def _earlier(path: Path, settings: dict) -> dict:
    """What an earlier run with the same settings has written."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    wanted = json.loads(json.dumps(settings))  # as JSON has them: tuples are lists there
    if different := [key for key, value in wanted.items() if earlier.get(key) != value]:
        raise datasets.InputError(
            f"expected {path} to be of a run with the same settings, got another "
            f"{', '.join(different)}; remove it and its folder, or choose another --out"
        )
    return earlier
