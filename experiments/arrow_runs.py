"""One run of the arrow-pointing study: a variant with a seed, stopped and resumed at will."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from torch import Tensor

import datasets
from experiments import resuming
from experiments.fitting import Protocol
from experiments.image_training import EVAL_FACTOR, loader, make_module
from experiments.models import count_parameters
from experiments.training import chosen_epoch
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


def summary(epochs: list[dict[str, float]], train_size: int) -> dict:
    """What a run has come to: the accuracies at the best epoch, and the speed."""
    best = chosen_epoch(epochs, "valid_accuracy", "max")
    seconds = sum(epoch["train_seconds"] for epoch in epochs)
    return {
        **{f"{part}_accuracy": epochs[best][f"{part}_accuracy"] for part in PARTS},
        "best_epoch": best + 1,
        "train_images_per_second": train_size * len(epochs) / seconds,
    }


def run(settings: dict, config: VisionConfig, protocol: Protocol, out: Path) -> dict:
    """One variant with one seed, from its last checkpoint if there is one; its results."""
    seed, data = protocol.seed, settings["data"]
    slug = settings["variant"].lower().replace("+", "").replace(" ", "_") + f"_seed{seed}"
    path, folder = out / f"{slug}.json", out / slug
    done = resuming.earlier(path, settings)
    if done.get("finished"):
        return done
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

    return resuming.fit(
        module,
        loader(ArrowBatches(train_images, protocol.batch_size)),
        [loader(ArrowBatches(images, size)) for images, size in zip(sets, sizes)],
        protocol,
        settings,
        lambda epochs: summary(epochs, data["train_size"]),
        path,
        folder,
        monitor="valid_accuracy",
        mode="max",
    )
