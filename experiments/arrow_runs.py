"""One run of the arrow-pointing study: a variant with a seed, stopped and resumed at will."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

import datasets
from experiments.arrow_report import chosen_epoch
from experiments.fitting import Protocol, make_trainer
from experiments.image_training import EVAL_FACTOR, loader, make_module
from experiments.models import count_parameters
from experiments.resuming import Progress, checkpoints, earlier, resume_from
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


def _summary(settings: dict, epochs: list[dict[str, float]]) -> dict:
    best, images = chosen_epoch(epochs), settings["data"]["train_size"]
    seconds = sum(epoch["train_seconds"] for epoch in epochs)
    result = {f"{part}_accuracy": epochs[best][f"{part}_accuracy"] for part in PARTS}
    result["best_epoch"] = best + 1
    return result | {"train_images_per_second": images * len(epochs) / seconds}


def run(settings: dict, config: VisionConfig, protocol: Protocol, out: Path) -> dict:
    """One variant with one seed, from its last checkpoint if there is one; its results."""
    seed, data = protocol.seed, settings["data"]
    slug = settings["variant"].lower().replace("+", "").replace(" ", "_") + f"_seed{seed}"
    path, folder = out / f"{slug}.json", out / slug
    done = earlier(path, settings)
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

    history = History()
    progress = Progress(path, settings, history, partial(_summary, settings))
    logs = TensorBoardLogger(folder, "", "tensorboard")
    keep = checkpoints(folder, "valid_accuracy", "max")
    trainer = make_trainer(protocol, history, progress, *keep, logger=logs)
    checkpoint = resume_from(folder, progress, trainer)
    trainer.fit(
        module,
        loader(ArrowBatches(train_images, protocol.batch_size)),
        [loader(ArrowBatches(images, size)) for images, size in zip(sets, sizes)],
        ckpt_path=checkpoint,
    )
    return json.loads(path.read_text())
