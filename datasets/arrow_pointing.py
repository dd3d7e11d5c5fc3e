"""Arrow pointing: does the arrow point at the circle? And does it still on a larger image?

The synthetic extrapolation task of the pLSTM paper (arXiv 2506.11997), drawn on the fly. A white
image shows a black arrow and a black circle, half the time the one pointing at the other. A model
trained on them is tested on new images of the same size, and on images twice as large ("ext")
whose shapes have the same sizes in pixels but may lie further apart.

Sizes, in pixels of the published 192 x 192 image (``scale`` multiplies all but the image):

    circle radius r ~ U(15, 30), arrow length ~ U(10, 30), stroke width ~ U(2, 3),
    both centres at least 30 from the border.

The arrow's centre is uniform in that inner square. The circle's offset from it is, in x and in y
alike, uniform in [2 r, w - 2 r] and taken modulo the square's side w: uniform on the torus without
a band of 2 r to either side. With d the distance of the centres, a pointing arrow's angle differs
by at most asin(r / (1.2 d)) from the direction to the circle, uniformly; that of the others by at
least asin(1.2 r / d). So the arrow's ray always hits by a margin or misses by one.

So defined the task has a shortcut: at 192 pixels the band leaves so little of the square that a
classifier that sees the arrow alone, its place and angle but no circle, is right on 92 % of the
test images (on 78 % by the angle alone). On "ext" this rule is worth 64 %: a model well above 92 %
and 64 % relates the two shapes. Sizes, places and the amount of black tell nothing.

What the paper leaves open: here the circle is filled, each of the head's two strokes is half as
long as the arrow, and edges are antialiased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.arrow_rendering import Geometry, render
from datasets.base import InputError

# Images of each split in the paper.
SIZES = {"train": 100_000, "valid": 5_120, "test": 10_240, "ext": 10_240}

_BORDER, _RADIUS, _LENGTH, _WIDTH = 30.0, (15.0, 30.0), (10.0, 30.0), (2.0, 3.0)
_SLACK = 1.2  # a pointing ray passes the centre within r / 1.2, others outside of 1.2 r
_DRAWS = 9  # uniform numbers for each image


def smallest_image(scale: float) -> int:
    """The smallest side in pixels where every circle finds its place."""
    # Less a rounding error, as in 180 * 0.35.
    return math.ceil(scale * (2 * _BORDER + 4 * _RADIUS[1]) - 1e-9)


def draw(uniform: np.ndarray, side: int, scale: float) -> Geometry:
    """Geometry from random numbers.

    Image i depends on row i alone, but for its label: of the rows 2 k and 2 k + 1 one points,
    and row 2 k decides which. So any even number of images from the first on is balanced.

    Args:
        uniform: [B, 9] float64 in [0, 1).
        side: of the image in pixels, at least :func:`smallest_image`.
        scale: of all sizes but the image's.
    """
    u = uniform.T
    border = _BORDER * scale
    room = side - 2 * border
    length = scale * (_LENGTH[0] + (_LENGTH[1] - _LENGTH[0]) * u[0])
    width = scale * (_WIDTH[0] + (_WIDTH[1] - _WIDTH[0]) * u[1])
    radius = scale * (_RADIUS[0] + (_RADIUS[1] - _RADIUS[0]) * u[2])
    arrow, circle = [], []
    for place, offset in ((u[3], u[4]), (u[5], u[6])):
        shift = 2 * radius + (room - 4 * radius) * offset
        arrow.append(border + room * place)
        circle.append(border + (room * place + shift) % room)

    odd = np.arange(len(uniform)) % 2
    label = (uniform[np.arange(len(uniform)) - odd, 7] < 0.5).astype(np.int64) ^ odd
    dx, dy = circle[0] - arrow[0], circle[1] - arrow[1]
    distance = np.hypot(dx, dy)
    hit = (2 * u[8] - 1) * np.arcsin(radius / (_SLACK * distance))
    edge = np.arcsin(_SLACK * radius / distance)
    miss = edge + 2 * (np.pi - edge) * u[8]
    angle = np.arctan2(dy, dx) + np.where(label == 1, hit, miss)
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    return Geometry(arrow[0], arrow[1], angle, length, width, circle[0], circle[1], radius, label)


class ArrowPointing(torch.utils.data.Dataset):
    """Images of one split; image i depends only on seed, split, epoch and i.

    Only the geometry is kept (72 bytes an image); images are drawn when they are asked for, fast
    enough that a ``DataLoader`` needs no workers.

    Args:
        split: "train", "valid", "test", or "ext": images of twice the side.
        size: number of images. Default: as published (:data:`SIZES`). A smaller set is the
            beginning of a larger one; an even size is exactly balanced.
        image_size: side of the images in pixels, for "ext" too, which doubles it.
        scale: of the shapes and the border against the published ones, which are made for
            patches of 16 pixels: 1/4 for patches of 4 pixels, with images of 48 pixels for the
            published number of patches.
        seed: nonnegative; splits and epochs have random streams of their own.
        epoch: see :meth:`set_epoch`.

    Raises:
        InputError: on an unknown split, a number out of range, or an image too small.
    """

    def __init__(
        self,
        split: str = "train",
        size: int | None = None,
        image_size: int = 192,
        scale: float = 1.0,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        if split not in SIZES:
            raise InputError(f"expected split one of {', '.join(SIZES)}, got {split!r}")
        if not (scale > 0 and math.isfinite(scale)):
            raise InputError(f"expected a positive scale, got {scale}; 1 is the published one")
        if image_size < (least := smallest_image(scale)):
            raise InputError(
                f"expected image_size of at least {least} pixels for scale {scale:g}, got "
                f"{image_size}: no place for the largest circle; enlarge the image, or take a "
                f"scale of at most {image_size / smallest_image(1):.4g}"
            )
        for name, value in (("size", size), ("seed", seed)):
            if value is not None and value < 0:
                raise InputError(f"expected a nonnegative {name}, got {value}")
        self.split = split
        self.size = SIZES[split] if size is None else size
        self.image_size = image_size
        self.scale = scale
        self.seed = seed
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Fresh training images for each epoch; the other splits are the same in all of them.

        Workers of a ``DataLoader`` copy the data set when they start: with
        ``persistent_workers`` they would stay with the epoch of that time.

        Args:
            epoch: nonnegative.
        """
        if epoch < 0:
            raise InputError(f"expected a nonnegative epoch, got {epoch}")
        self.epoch = epoch if self.split == "train" else 0
        stream = np.random.default_rng([list(SIZES).index(self.split), self.epoch, self.seed])
        self._geometry = draw(stream.random((self.size, _DRAWS)), self.side, self.scale)

    @property
    def side(self) -> int:
        """Of the images as drawn, in pixels."""
        return self.image_size * (2 if self.split == "ext" else 1)

    def extrapolated(self, size: int | None = None) -> ArrowPointing:
        """The test on images of twice the side, with this one's sizes of shapes and seed."""
        return ArrowPointing("ext", size, self.image_size, self.scale, self.seed)

    def params(self, indices: int | slice | Sequence[int] | None = None) -> Geometry:
        """The geometry of the images asked for, of all by default."""
        rows = slice(None) if indices is None else indices
        return Geometry(*(column[rows] for column in self._geometry))

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Draw images.

        Args:
            indices: [B], in any order.

        Returns:
            Images, uint8 [B, 1, side, side] with 0 black and 255 white (see
            :func:`datasets.as_float`), and labels, int64 [B], 1 where the arrow points.

        Raises:
            IndexError: beyond ``len(self)``.
        """
        geometry = self.params(np.asarray(indices, dtype=np.int64))
        images = render(geometry, self.side)
        return torch.from_numpy(images)[:, None], torch.from_numpy(geometry.label)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.batch([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """What a ``DataLoader`` asks for where there is such a method: the batch at once."""
        return list(zip(*self.batch(indices)))

    def __repr__(self) -> str:
        return (
            f"ArrowPointing({self.split!r}, {self.size}, {self.image_size}, scale={self.scale:g}, "
            f"seed={self.seed}, epoch={self.epoch})"
        )


def contact_sheet(path: str | Path, image_size: int = 192, scale: float = 1.0, seed: int = 0):
    """Write a picture of examples: pointing and not, of training size and twice as large.

    All are shown at the same size of a pixel. The picture of the documentation is
    ``contact_sheet("docs/arrow_pointing.png")``.

    Args:
        path: the picture file; its folder is made.
        image_size, scale, seed: see :class:`ArrowPointing`.
    """
    from matplotlib.figure import Figure  # not needed to train

    train = ArrowPointing("train", 64, image_size, scale, seed)
    # In sides of a training image: eight of them fill a row with seven gaps, four large ones with
    # three wider gaps.
    gap, title = 0.06, 0.26
    width, height = 8 + 9 * gap, 6 + 4 * title + gap
    figure = Figure(figsize=(width, height), facecolor="#e2e8f0")
    y = height
    for i in range(4):
        data, label = (train, train.extrapolated(64))[i // 2], 1 - i % 2
        cell = data.side / train.side
        count = round(8 / cell)
        kind = "Extrapolation" if data.split == "ext" else "Training"
        text = f"{kind}, {data.side} x {data.side}: {'pointing' if label else 'not pointing'}"
        figure.text(gap / width, (y - 0.19) / height, text, fontsize=9)
        y -= title + cell
        chosen = np.flatnonzero(data.params().label == label)[:count]
        for j, image in enumerate(data.batch(chosen)[0]):
            x = gap + j * (cell + 7 * gap / (count - 1))
            ax = figure.add_axes((x / width, y / height, cell / width, cell / height))
            ax.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
            ax.axis("off")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, pil_kwargs={"optimize": True})
