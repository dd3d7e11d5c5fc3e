"""Image classifiers: their batches, and the Lightning module that trains them all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from experiments.fitting import Protocol
from experiments.training import EpochModule, is_repeat
from experiments.vision_models import VisionConfig, build

# Without gradients a batch may be larger.
EVAL_FACTOR = 2


def loader(batches: Dataset) -> DataLoader:
    """Batches that are made whole, so that there is no work for each image."""
    return DataLoader(batches, batch_size=None)


class ImageBatches(Dataset):
    """Batches of images that are held as tensors.

    Args:
        images: uint8 [N, C, Y, X].
        labels: int64 [N].
        batch_size: images of a batch.
        seed: of order and augmentation, new ones for each epoch; None for batches in order,
            as they are.
        shift: with a seed, move every image by up to so many pixels along each axis.
        flip: with a seed, mirror half of the images, left to right.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, seed: int | None = None,
        shift: int = 0, flip: bool = False,
    ) -> None:  # fmt: skip
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.seed, self.shift, self.flip = seed, shift, flip
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.order = torch.arange(len(self.labels))
        if self.seed is not None:
            # Of seed and epoch alone: the models of a comparison read the same batches.
            stream = np.random.default_rng([self.seed, epoch])
            self.order = torch.from_numpy(stream.permutation(len(self.labels)))
            self.moves = torch.from_numpy(
                stream.integers(
                    0, (2 * self.shift + 1, 2 * self.shift + 1, 2), (len(self.order), 3)
                )
            )

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        place = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows = self.order[place]
        images = self.images[rows]
        if self.seed is not None and (self.shift or self.flip):
            images = self._augment(images, self.moves[place])
        return images, self.labels[rows]

    def _augment(self, images: Tensor, moves: Tensor) -> Tensor:
        down, across, mirror = moves.unbind(1)
        if self.shift:
            sides = images.shape[2:]
            padded = F.pad(images, [self.shift] * 4)
            windows = padded.unfold(2, sides[0], 1).unfold(3, sides[1], 1)
            images = windows[torch.arange(len(images)), :, down, across]
        if self.flip:
            images = torch.where(mirror.bool()[:, None, None, None], images.flip(3), images)
        return images


class ImageModule(EpochModule):
    """A classifier of uint8 images with its loss, metrics and optimizer (:class:`EpochModule`).

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
        logits = self(images)
        if not is_repeat(self.trainer, index, dataloader_idx):
            self.scores[dataloader_idx].update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        self.log("train_seconds", self.train_seconds, sync_dist=True)
        for part, score in zip(self.hparams.parts, self.scores):
            value = score.compute()
            self.log(f"{part}_accuracy", value, prog_bar=part == "valid", sync_dist=True)
            score.reset()


@torch.no_grad()
def predict(module: ImageModule, batches: Dataset, device: torch.device | str) -> Tensor:
    """[N, classes] probabilities of all images of the batches."""
    module = module.to(device).eval()
    found = [module(batches[i][0].to(device)).softmax(1).cpu() for i in range(len(batches))]
    return torch.cat(found)


def make_module(
    config: VisionConfig,
    mean: Sequence[float],
    std: Sequence[float],
    protocol: Protocol,
    parts: Sequence[str] = ("valid",),
) -> ImageModule:
    """A module with the learning rate and so on of a protocol; see :class:`ImageModule`."""
    return ImageModule(
        asdict(config), mean, std, lr=protocol.lr, weight_decay=protocol.weight_decay,
        warmup_epochs=protocol.warmup_epochs, parts=list(parts),
    )  # fmt: skip
