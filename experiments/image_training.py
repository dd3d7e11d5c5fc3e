"""Image classifiers: their batches, and the Lightning module that trains them all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from experiments.training import adamw
from experiments.vision_models import VisionConfig, build

# Without gradients a batch may be larger.
EVAL_FACTOR = 2


def loader(batches: Dataset) -> DataLoader:
    """Batches that are made whole, so that there is no work for each image."""
    return DataLoader(batches, batch_size=None)


class ImageModule(L.LightningModule):
    """A classifier of uint8 images with its loss, metrics and optimizer (:func:`adamw`).

    The training batches, a data set with ``set_epoch``, are told of each epoch. Validation may
    read several sets; all but the first, "valid", are only recorded.

    Args:
        model: fields of :class:`VisionConfig`.
        mean: of the pixels of each channel, in units of white, which become 0.
        std: their standard deviation, which becomes 1.
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up.
        parts: names of the sets that validation reads.
    """

    def __init__(
        self,
        model: dict,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_epochs: int = 1,
        parts: Sequence[str] = ("valid",),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = build(VisionConfig(**model))
        pixels = torch.tensor([list(mean), list(std)])[..., None, None]
        self.register_buffer("pixels", pixels, persistent=False)
        self.scores = torch.nn.ModuleList(
            MulticlassAccuracy(model["classes"], average="micro") for _ in parts
        )
        self.train_seconds = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images, uint8 [B, channels, Y, X]."""
        mean, std = self.pixels
        # A blank channel stays 0.
        return self.net((images.to(mean.dtype) / 255 - mean) / std.clamp(min=1e-3))

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.dataset.set_epoch(self.current_epoch)
        self._start = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        options = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log("loss", loss, batch_size=len(labels), **options)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.train_seconds = time.perf_counter() - self._start

    def validation_step(self, batch: tuple, index: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        self.scores[dataloader_idx].update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        self.log("train_seconds", self.train_seconds, sync_dist=True)
        for part, score in zip(self.hparams.parts, self.scores):
            value = score.compute()
            self.log(f"{part}_accuracy", value, prog_bar=part == "valid", sync_dist=True)
            score.reset()

    def configure_optimizers(self) -> dict:
        return adamw(self)


def make_module(config: VisionConfig, mean, std, protocol, parts=("valid",)) -> ImageModule:
    """A module with the learning rate and so on of a :class:`experiments.fitting.Protocol`."""
    return ImageModule(
        asdict(config), mean, std, lr=protocol.lr, weight_decay=protocol.weight_decay,
        warmup_epochs=protocol.warmup_epochs, parts=list(parts),
    )  # fmt: skip
