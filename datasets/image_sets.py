"""The image sets known by name: from scikit-learn, from files in the data root, or torchvision."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from datasets.base import InputError
from datasets.image_files import Parts, read_archive, report_bad, stack

# Raise when what is cached changes, so that older caches are not read.
_CACHE_VERSION = 1
_DIGITS = list("0123456789")

# Parts as the source has them, names of the classes, and notes.
Loaded = tuple[Parts, list[str], list[str]]


def digits(_: Path) -> Loaded:
    """1,797 handwritten digits of 8 x 8 pixels."""
    raw = load_digits()
    # 17 greys, 0 to 16, over the range of a byte.
    images = torch.from_numpy(np.round(raw.images * (255 / 16)).astype(np.uint8))[:, None]
    return {"train": (images, torch.from_numpy(raw.target).long())}, _DIGITS, []


def mnist(folder: Path) -> Loaded:
    """70,000 handwritten digits of 28 x 28 pixels.

    Args:
        folder: of mnist.npz.
    """
    path = folder / "mnist.npz"
    if not path.exists():
        return _torchvision("MNIST", path, "arrays train_x, train_y, test_x and test_y")
    with np.load(path) as file:
        names = [f"{part}_{kind}" for part in ("train", "test") for kind in "xy"]
        if missing := [name for name in names if name not in file]:
            raise InputError(
                f"expected arrays {', '.join(names)} in {path}, got no {', '.join(missing)}; "
                f"name the arrays so"
            )
        arrays = {name: torch.from_numpy(file[name]) for name in names}
    parts = {p: (arrays[f"{p}_x"][:, None], arrays[f"{p}_y"].long()) for p in ("train", "test")}
    return parts, _DIGITS, []


def cifar10(folder: Path) -> Loaded:
    """60,000 photographs of 32 x 32 pixels in colour, decoded once and cached.

    Args:
        folder: of the archive, and of the cache unless the folder is read-only.
    """
    source = folder / "cifar10_jpeg.tar.xz"
    if not source.exists():
        return _torchvision("CIFAR10", source, "train/CLASS/*.jpg and test/CLASS/*.jpg")
    # The size stands for the archive: the home serves all data roots that are read-only.
    home = folder if _writable(folder) else Path.home() / ".cache" / "plstm_graph" / "images"
    cache = home / f"cifar10_v{_CACHE_VERSION}_{source.stat().st_size}.npz"
    if not cache.exists():
        _decode(source, cache)
    with np.load(cache) as file:
        parts = {
            part: (torch.from_numpy(file[f"{part}_x"]), torch.from_numpy(file[f"{part}_y"]))
            for part in ("train", "test")
        }
        return parts, file["classes"].tolist(), file["notes"].tolist()


LOADERS = {"digits": digits, "mnist": mnist, "cifar10": cifar10}


def _writable(folder: Path) -> bool:
    # The superuser may write anywhere; a folder marked read-only is still left alone.
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def _decode(source: Path, cache: Path) -> None:
    """Read the archive and write its images as arrays."""
    images, bad = read_archive(source)
    notes = ["decoded from JPEG: pixels differ a little from the original set's"]
    if bad:
        notes.append(report_bad(bad, len(images) + len(bad)))
    classes = sorted({key[1] for key in images})
    found = {key[0] for key in images}
    if missing := {"train", "test"} - found:
        raise InputError(
            f"expected images train/CLASS/* and test/CLASS/* in {source}, got none of "
            f"{', '.join(sorted(missing))}; download the file again"
        )
    arrays = {"classes": np.array(classes), "notes": np.array(notes)}
    for part, (x, y) in stack(images, classes).items():
        arrays |= {f"{part}_x": x.numpy(), f"{part}_y": y.numpy()}
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(cache)  # an interrupted run leaves no half-written cache


def _torchvision(name: str, path: Path, content: str) -> Loaded:
    """The set as torchvision keeps it in the same folder; it downloads what is not there."""
    try:
        from torchvision import datasets
    except ImportError:
        raise InputError(
            f"expected the file {path} ({content}), got none; put it there, or install "
            f"torchvision, which downloads {name}"
        ) from None
    parts = {}
    for part in ("train", "test"):
        raw = getattr(datasets, name)(str(path.parent), train=part == "train", download=True)
        images = torch.as_tensor(raw.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        parts[part] = (images, torch.as_tensor(raw.targets).long())
    return parts, [str(c) for c in raw.classes], []
