"""Images as grids of patches: a pLSTM beside a ViT and a CNN of the same size and budget.

    python -m experiments.grid_images                        # 8 x 8 digits, no download
    python -m experiments.grid_images --config experiments/configs/grid_images_mnist.yaml
    python -m experiments.grid_images --dataset folder:PATH --image-size 64

One command trains all models, keeps the epoch of best validation accuracy of each, and leaves a
table, metrics.json, curves, sample predictions, and the receptive field of the trained pLSTM.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch import Tensor

import datasets
from experiments import cli, image_figures, reporting
from experiments.fitting import Protocol, quiet
from experiments.image_fitting import AUGMENTATIONS, Fit, fit
from experiments.models import count_parameters
from experiments.vision_models import NAMES, VisionConfig, build, match_budget

# --quick: every part of a run, in seconds.
QUICK_EPOCHS, QUICK_LIMIT = 2, 128


def train(
    dataset: str = "digits",
    data_root: Path | None = None,
    image_size: int | None = None,
    models: str = ",".join(NAMES),
    width: int = 64,
    depth: int = 4,
    heads: int = 2,
    patch: int | None = None,
    pooling: str = "mean",
    modes: str = "PD",
    augment: str = "shift",
    epochs: int = 20,
    warmup_epochs: int = 2,
    batch_size: int = 32,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    patience: int = 20,
    seed: int = 0,
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    limit: int | None = None,
    quick: bool = False,
    out: Path | None = None,
) -> dict:
    """Train pLSTM, ViT and CNN on an image set, and compare them on its test set.

    Args:
        dataset: digits (ships with scikit-learn), mnist, cifar10, or folder:PATH with
            PATH/train/CLASS/* and perhaps valid and test alike.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        image_size: for folders, the side in pixels that all images are brought to.
        models: which of plstm, vit, cnn to train, separated by commas.
        width: of pLSTM; the others get the width that meets its parameter count.
        depth: blocks of each model.
        heads: heads of pLSTM and ViT.
        patch: side of a patch in pixels, which divides the images'; by default 2 for digits,
            else the largest, up to 16, that leaves 7 patches to a side.
        pooling: of pLSTM: mean, or corners as published; ViT takes the mean.
        modes: of pLSTM's blocks, a pattern that is repeated.
        augment: none, shift (by an eighth of the side at most), or shift+flip, for all models.
        epochs: most epochs of each model.
        warmup_epochs: epochs of rising learning rate.
        batch_size: images per step and device.
        lr: peak learning rate.
        weight_decay: of AdamW.
        patience: epochs without a better validation accuracy before a model stops.
        seed: of initialisation, batches and augmentation.
        accelerator: auto, cpu or gpu.
        devices: number of devices.
        strategy: auto, or ddp for several devices.
        limit: use only so many images of each part.
        quick: a short run of everything, for tests.
        out: folder for results; default runs/grid_images/DATASET.
    """
    if quick:
        epochs, limit = min(epochs, QUICK_EPOCHS), min(limit or QUICK_LIMIT, QUICK_LIMIT)
    names = models.replace(" ", "").split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise datasets.InputError(f"expected models out of {', '.join(NAMES)}, got {unknown}")
    if augment not in AUGMENTATIONS:
        raise datasets.InputError(
            f"expected augment out of {', '.join(AUGMENTATIONS)}, got {augment!r}"
        )
    quiet()
    data = datasets.load_images(dataset, data_root, image_size=image_size)
    out = out or Path("runs") / "grid_images" / Path(data.name.split(":")[-1]).name
    parts = {name: data.part(name, limit) for name in datasets.SPLITS}
    console = Console(quiet=rank_zero_only.rank != 0)  # one voice under DDP
    for note in (*data.notes, _describe(data, parts)):
        console.print(note, markup=False, highlight=False)

    protocol = Protocol(
        epochs, warmup_epochs, batch_size, lr, weight_decay, patience, seed,
        accelerator, devices, strategy,
    )  # fmt: skip
    channels, *sides = data.shape
    if patch is None:
        patch = 2 if dataset == "digits" else default_patch(*sides)
    plstm = VisionConfig(
        "plstm", tuple(sides), channels, len(data.classes), patch, width, depth, heads, pooling,
        options={"modes": modes},
    )  # fmt: skip
    budget = count_parameters(build(plstm))
    fits = {}
    for name in names:
        config = plstm
        if name != "plstm":
            config = replace(plstm, name=name, pooling="mean", options={})
            config = match_budget(config, budget)
        result = fit(config, data, parts, protocol, out, augment)
        if result is not None:
            console.print(
                f"{reporting.title(name)}: {len(result.history.epochs)} epochs in "
                f"{result.history.seconds:.0f} s, best validation accuracy {result.score:.4f}"
            )
        fits[name] = result
    if None in fits.values():
        return {}  # a helper process of DDP
    return _report(data, parts, fits, protocol, augment, out, console)


def default_patch(height: int, width: int) -> int:
    """The largest side of a patch, up to 16, with 7 patches along the shorter side; at least 1."""
    both = gcd(height, width)
    fits = [p for p in range(1, 17) if both % p == 0 and min(height, width) >= 7 * p]
    return max(fits, default=1)


def _describe(data: datasets.ImageDataset, parts: dict) -> str:
    sizes = ", ".join(f"{len(labels)} {name}" for name, (_, labels) in parts.items())
    channels, *sides = data.shape
    return (
        f"{data.name}: {sizes} images of {sides[0]} x {sides[1]} pixels, {channels} channels, "
        f"{len(data.classes)} classes"
    )


def _report(
    data: datasets.ImageDataset,
    parts: dict[str, tuple[Tensor, Tensor]],
    fits: dict[str, Fit],
    protocol: Protocol,
    augment: str,
    out: Path,
    console: Console,
) -> dict:
    """Print the table and write metrics.json and the pictures; returns what the file holds."""
    images, target = parts["test"]
    rows = {
        name: {
            "test": {"accuracy": float((result.pred.argmax(1) == target).float().mean())},
            "best_valid_accuracy": result.score,
            "parameters": count_parameters(result.module.net),
            "seconds_per_epoch": result.history.seconds_per_epoch,
            "epochs": len(result.history.epochs),
            "config": reporting.plain(result.config),
        }
        for name, result in fits.items()
    }
    curves = {name: result.history.epochs for name, result in fits.items()}
    results = {
        "dataset": data.name.split("/")[-1],
        "images": {name: len(labels) for name, (_, labels) in parts.items()},
        "classes": data.classes,
        "notes": data.notes,
        "augment": augment,
        "protocol": reporting.plain(protocol),
        **reporting.environment(protocol.seed),
        "models": rows,
        "curves": curves,
    }
    reporting.print_table(data.name, rows, console)
    reporting.write_json(out / "metrics.json", results)
    reporting.plot_curves(out / "curves.png", curves, "accuracy")
    first, chosen = next(iter(fits.items()))
    image_figures.plot_predictions(
        out / "predictions.png", images, chosen.pred, target, data.classes, reporting.title(first)
    )
    pictures = "curves.png, predictions.png"
    if "plstm" in fits:
        image_figures.plot_receptive_field(
            out / "receptive_field.png", fits["plstm"].module, images[0]
        )
        pictures += ", receptive_field.png"
    console.print(f"{out}: metrics.json, {pictures}, checkpoints/, logs/")
    return results


def main(args: list[str] | None = None):
    """Command line."""
    return cli.run(train, args)


if __name__ == "__main__":
    main()
