"""Image classification sets, held in memory as uint8: :func:`load_images` finds one by its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from datasets.base import SPLITS, InputError, data_root
from datasets.image_files import Parts, read_folder, report_bad, stack
from datasets.image_sets import LOADERS


def as_float(images: Tensor) -> Tensor:
    """uint8 images of any shape as float32 in [0, 1], on their device."""
    return images.to(torch.float32) / 255


@dataclass
class ImageDataset:
    """Images of one size with one class each, and their split.

    Args:
        name: as given on the command line.
        parts: "train", "valid" and "test", each with images, uint8 [N, C, Y, X], C = 1 or 3, and
            labels, int64 [N].
        classes: names of the classes, in the order of the labels.
        notes: what a user should know of this load: bad files, parts carved from others.

    ``mean`` and ``std``, float32 [C], are those of all training pixels, in units of white.
    """

    name: str
    parts: Parts
    classes: list[str]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        images = self.parts["train"][0]
        # From a count of the 256 greys: exact, and without a float copy of all pixels.
        counts = torch.stack([_histogram(channel) for channel in images.transpose(0, 1)])
        share = counts.double() / counts.sum(1, keepdim=True)
        grey = torch.linspace(0, 1, 256, dtype=torch.float64)
        mean = share @ grey
        self.mean = mean.float()
        self.std = (share * (grey - mean[:, None]).square()).sum(1).sqrt().float()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, Y, X) of every image."""
        return tuple(self.parts["train"][0].shape[1:])

    def part(self, name: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Images and labels of "train", "valid" or "test", or ``limit`` of them at most.

        The limited are spread evenly, since sets are often ordered by class.
        """
        images, labels = self.parts[name]
        if limit is None or limit >= len(labels):
            return images, labels
        rows = torch.arange(limit) * len(labels) // max(limit, 1)
        return images[rows], labels[rows]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [..., C, Y, X] as float32 of mean 0 and variance 1 over the training set."""
        mean, std = (s.to(images.device)[:, None, None] for s in (self.mean, self.std))
        return (as_float(images) - mean) / std.clamp(min=1e-3)  # a blank channel stays 0


def _histogram(pixels: Tensor) -> Tensor:
    """[256] int64: how often each value occurs in uint8 [N, Y, X]."""
    # bincount makes int64 of what it counts: eight times the memory, so not all at once.
    return sum(torch.bincount(rows.flatten(), minlength=256) for rows in pixels.split(4096))


def load_images(
    name: str = "digits",
    root: str | Path | None = None,
    *,
    image_size: int | None = None,
    valid: float = 0.1,
) -> ImageDataset:
    """Load an image set.

    - ``digits``: 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships; no download.
    - ``mnist``: from ``root``/images/mnist.npz.
    - ``cifar10``: from ``root``/images/cifar10_jpeg.tar.xz, decoded once and cached.
      These two come through torchvision, if it is installed, where the file is not there.
    - ``folder:PATH``: PATH/train/CLASS/*, valid/ (or val/) and test/ alike. A part without a
      folder is carved from the training images.

    Parts that the source does not have are carved from its training images by a fixed stratified
    draw; the notes say so.

    Args:
        name: "digits", "mnist", "cifar10" or "folder:PATH".
        root: data root, see :func:`datasets.base.data_root`.
        image_size: for folders, the side in pixels that all images are brought to. Default:
            they are of one size already.
        valid: fraction of the training images that becomes validation (and test) where there is
            no such part.

    Raises:
        InputError: on an unknown name, missing files, or a folder without usable images.
    """
    if not 0 < valid < 0.5:
        raise InputError(f"expected valid between 0 and 0.5, got {valid}")
    if image_size is not None and image_size < 1:
        raise InputError(f"expected a positive image_size, got {image_size}")
    if name.startswith("folder:"):
        parts, classes, notes = _folder(Path(name.removeprefix("folder:")).expanduser(), image_size)
    elif image_size is not None:
        raise InputError(f"expected image_size with folder:PATH only, got it with {name!r}")
    elif name in LOADERS:
        parts, classes, notes = LOADERS[name](data_root(root) / "images")
    else:
        choices = ", ".join([*LOADERS, "folder:PATH"])
        raise InputError(f"expected an image set of {choices}, got {name!r}")
    whole = len(parts["train"][1])
    for part in ("test", "valid"):
        if part not in parts:
            parts["train"], parts[part] = _carve(parts["train"], classes, round(whole * valid))
            notes = [*notes, f"{part}: {len(parts[part][1])} images carved from training"]
    return ImageDataset(name, {part: parts[part] for part in SPLITS}, classes, notes)


def _carve(part: tuple[Tensor, Tensor], classes: list[str], size: int):
    """Take ``size`` images, classes in proportion; both halves keep their order."""
    images, labels = part
    counts = torch.bincount(labels, minlength=len(classes))
    if (least := int(counts.min())) < 2:
        raise InputError(
            f"expected enough training images of class {classes[int(counts.argmin())]!r} to carve "
            f"validation and test from them, got {least} left; add some, or folders of these parts"
        )
    rows = np.arange(len(labels))
    size = max(size, len(classes))
    rest, taken = train_test_split(rows, test_size=size, random_state=42, stratify=labels.numpy())
    rest, taken = (torch.from_numpy(np.sort(rows)) for rows in (rest, taken))
    return (images[rest], labels[rest]), (images[taken], labels[taken])


def _folder(folder: Path, image_size: int | None):
    names = {"train": "train", "valid": "valid", "test": "test"}
    if (folder / "val").is_dir():
        if (folder / "valid").is_dir():
            raise InputError(f"expected one of the folders valid and val in {folder}, got both")
        names["valid"] = "val"
    names = {name: part for part, name in names.items() if (folder / name).is_dir()}
    if "train" not in names:
        raise InputError(
            f"expected a folder train with one folder of images for each class in {folder}, got "
            f"none; put the training images there"
        )
    images, bad = read_folder(folder, names, image_size)
    notes = [report_bad(bad, len(images) + len(bad))] if bad else []
    # Classes by folder, so that one whose files are all unreadable does not vanish.
    found = {path.name for name in names for path in (folder / name).iterdir() if path.is_dir()}
    wanted = {("train", label) for label in found} | {(name, None) for name in names}
    have = {key[:2] for key in images} | {(key[0], None) for key in images}
    if missing := sorted("/".join(filter(None, key)) for key in wanted - have):
        raise InputError(
            f"expected images in {folder} of every part, and of every class in train, got none "
            f"in {', '.join(missing)}; add some, or take the folder out. {' '.join(notes)}".strip()
        )
    classes = sorted(found)
    parts = stack(images, classes, "; pass image_size to bring them to one")
    return {names[name]: part for name, part in parts.items()}, classes, notes
