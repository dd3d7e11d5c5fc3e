"""Extrapolation to larger images: the arrow-pointing study of the paper (arXiv 2506.11997).

    python -m experiments.arrow_pointing --config experiments/configs/arrow_pointing.yaml
    python -m experiments.arrow_pointing --variants "P+D,ViT" --seeds 0
    python -m experiments.arrow_pointing report runs/arrow_pointing

Models are trained on small images and tested on small ones (test) and on images of twice the side
(ext). Training is the default command; it trains every variant with every seed. A run writes its
results after each epoch, and its checkpoint: the same command goes on where it was stopped, and
leaves finished runs alone. Processes with other --variants or --seeds may share a folder.

The published images have 192 pixels, 12 x 12 patches of 16. The default halves the images and
leaves the patches, so 6 x 6 of them. The arrow is a few thin strokes somewhere in a patch or across
several: from a linear map of patches no model found its angle within 100,000 images, from a
convolutional stem all do. pLSTM's layers have no convolution here: four of them would reach as far
as the shapes lie apart in training, and what they learn to do there ends beyond.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

import datasets
from experiments import cli, resuming
from experiments.arrow_report import report
from experiments.arrow_runs import run
from experiments.fitting import Protocol, quiet
from experiments.models import count_parameters
from experiments.vision_models import VisionConfig, build, match_budget

# What sets the published variants apart; those that say nothing of a position embedding have one
# with --position.
VARIANTS = {
    "P+D": {"position": True},
    "P": {"modes": "P"},
    "D": {"modes": "D"},
    "no position": {"position": False},
    "gate biases only": {"gate_weights": False},
    "ViT": None,
}
# --quick: every part of a run, in seconds.
QUICK = {"epochs": 2, "train_size": 64, "eval_size": 16}


def train(
    variants: str = ",".join(VARIANTS),
    seeds: str | int = "0,1,2",
    image_size: int = 96,
    scale: float = 0.5,
    patch: int = 16,
    stem: str = "conv",
    bias: bool = False,
    position: bool = False,
    width: int = 64,
    heads: int = 4,
    depth: int = 4,
    conv: int = 0,
    passthrough: bool = True,
    pooling: str = "mean",
    vit_pooling: str = "mean",
    vit_bias: bool = True,
    train_size: int = 20_000,
    valid_size: int = 2_048,
    test_size: int = 2_048,
    epochs: int = 6,
    warmup_epochs: int = 1,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    accelerator: str = "auto",
    devices: str = "1",
    strategy: str = "auto",
    quick: bool = False,
    out: Path = Path("runs/arrow_pointing"),
) -> list[dict]:
    """Train the variants with each of the seeds, or go on with what was stopped.

    Args:
        variants: which of P+D, P, D, no position, gate biases only, ViT; separated by commas.
        seeds: of initialisation and training images; separated by commas.
        image_size: side of the training images in pixels; ext has twice as much.
        scale: of the shapes against the published ones.
        patch: side of a patch in pixels.
        stem: of all models: linear, or conv, which sees an arrow wherever it lies in a patch.
        bias: of pLSTM's maps and norms. Without biases, and positions, blank patches stay zero
            until something reaches them.
        position: whether P, D and "gate biases only" have a position embedding, as published;
            P+D and ViT always have one, "no position" never.
        width: of pLSTM; ViT gets the width that meets the parameter count of P+D.
        heads: heads of both.
        depth: blocks of both.
        conv: kernel size of pLSTM's convolution, 0 for none.
        passthrough: of pLSTM's layers.
        pooling: of pLSTM: corners or mean.
        vit_pooling: of ViT: token or mean.
        vit_bias: of ViT's maps and norms; without them it was worse.
        train_size: images of an epoch, new ones for each.
        valid_size: images for validation, the same for all runs and epochs.
        test_size: of test, and as many of ext, the same for all runs and epochs.
        epochs: of each run.
        warmup_epochs: epochs of rising learning rate.
        batch_size: images per step and device.
        lr: peak learning rate.
        weight_decay: of AdamW.
        accelerator: auto, cpu or gpu.
        devices: number of devices.
        strategy: auto, or ddp for several devices.
        quick: a short run of everything, for tests.
        out: folder of the results, one file a run, and of their checkpoints and logs.
    """
    if quick:
        epochs, train_size = min(epochs, QUICK["epochs"]), min(train_size, QUICK["train_size"])
        valid_size, test_size = (min(n, QUICK["eval_size"]) for n in (valid_size, test_size))
    names = cli.names("variants", variants, tuple(VARIANTS))
    numbers = cli.integers("seeds", seeds)
    if min(epochs, train_size, valid_size, test_size, batch_size) < 1:
        raise datasets.InputError("expected epochs, batch_size and all sizes of 1 or more")
    quiet()
    plstm = VisionConfig(
        "plstm", (image_size, image_size), 1, 2, patch, width, depth, heads, pooling, stem, bias,
        {"conv": conv, "passthrough": passthrough, "position": position},
    )  # fmt: skip
    data = {"image_size": image_size, "scale": scale}
    data |= {"train_size": train_size, "valid_size": valid_size, "test_size": test_size}
    console = Console(quiet=rank_zero_only.rank != 0)  # one voice under DDP
    results = []
    for seed in numbers:
        protocol = Protocol(
            epochs, warmup_epochs, batch_size, lr, weight_decay, patience=epochs, seed=seed,
            accelerator=accelerator, devices=devices, strategy=strategy,
        )  # fmt: skip
        for name in names:
            config = _config(name, plstm, vit_pooling, vit_bias)
            settings = {"variant": name, "model": asdict(config), "data": data}
            settings["protocol"] = resuming.lasting(protocol)
            result = run(settings, config, protocol, out)
            if result["epochs_done"]:
                console.print(
                    f"{name}, seed {seed}: test {result['test_accuracy']:.3f}, "
                    f"ext {result['ext_accuracy']:.3f} at epoch {result['best_epoch']} "
                    f"of {result['epochs_done']}",
                    highlight=False,
                )
            results.append(result)
    return results


def _config(variant: str, plstm: VisionConfig, vit_pooling: str, vit_bias: bool) -> VisionConfig:
    """The model of a variant; ``plstm`` is that of P+D."""
    if VARIANTS[variant] is not None:
        return replace(plstm, options={**plstm.options, **VARIANTS[variant]})
    vit = replace(plstm, name="vit", pooling=vit_pooling, bias=vit_bias, options={})
    return match_budget(vit, count_parameters(build(plstm)))


def main(args: list[str] | None = None):
    """Command line; ``train`` where no command is named."""
    return cli.run({"train": train, "report": report}, args, default="train")


if __name__ == "__main__":
    main()
