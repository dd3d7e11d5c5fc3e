"""One image model through the protocol: train, keep the best epoch, predict the test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

import datasets
from experiments.fitting import Protocol, make_trainer
from experiments.image_training import (
    EVAL_FACTOR,
    ImageBatches,
    ImageModule,
    loader,
    make_module,
    predict,
)
from experiments.training import History
from experiments.vision_models import VisionConfig

AUGMENTATIONS = ("none", "shift", "shift+flip")


@dataclass(frozen=True)
class Fit:
    """A trained model: its probabilities [N, classes] for the test set, and how it came about."""

    config: VisionConfig
    module: ImageModule
    pred: Tensor
    score: float
    history: History


def fit(
    config: VisionConfig,
    data: datasets.ImageDataset,
    parts: dict[str, tuple[Tensor, Tensor]],
    protocol: Protocol,
    out: Path,
    augment: str,
) -> Fit | None:
    """Train a model, with logs, early stopping and the best checkpoint in ``out``.

    Args:
        config: the model.
        data: for the mean and deviation of its pixels.
        parts: images and labels of "train", "valid" and "test".
        protocol: how to train.
        out: folder; the checkpoint is ``out``/checkpoints/NAME.ckpt.
        augment: one of :data:`AUGMENTATIONS`.

    Returns:
        The fit; None in helper processes of DDP, which only train.
    """
    L.seed_everything(protocol.seed, workers=True, verbose=False)
    module = make_module(config, data.mean.tolist(), data.std.tolist(), protocol)
    best = ModelCheckpoint(
        out / "checkpoints", config.name, monitor="valid_accuracy", mode="max",
        enable_version_counter=False,
    )  # fmt: skip
    stop = EarlyStopping("valid_accuracy", mode="max", patience=protocol.patience)
    logs = [
        TensorBoardLogger(out / "logs", config.name, "tensorboard"),
        CSVLogger(out / "logs", config.name, "csv"),
    ]
    shift = min(config.image_size) // 8 if augment != "none" else 0
    batches = ImageBatches(
        *parts["train"], protocol.batch_size, protocol.seed, shift, augment == "shift+flip"
    )
    size = EVAL_FACTOR * protocol.batch_size
    history = History()
    trainer = make_trainer(protocol, history, best, stop, logger=logs)
    trainer.fit(module, loader(batches), loader(ImageBatches(*parts["valid"], size)))
    if not trainer.is_global_zero:
        return None
    module = ImageModule.load_from_checkpoint(best.best_model_path, map_location="cpu")
    # In this process alone: distributed sampling repeats batches to share them evenly.
    pred = predict(module, ImageBatches(*parts["test"], size), trainer.strategy.root_device)
    return Fit(config, module.cpu(), pred, float(best.best_model_score), history)
