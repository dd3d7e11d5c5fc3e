"""Image files into arrays: folders of classes, and archives of such folders.

What cannot be read as an image is reported by name, never dropped silently.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datasets.base import InputError

# What Pillow raises on files that are no images, cut short, corrupt or absurdly large.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)

_ORIENTATION = 0x0112  # tag of EXIF, 1 upright

# {(part, class, file name): uint8 [Y, X] or [Y, X, 3]}
Decoded = dict[tuple[str, str, str], np.ndarray]
# {part: (images, uint8 [N, C, Y, X], and labels, int64 [N])}
Parts = dict[str, tuple[Tensor, Tensor]]


def decode(file: Path | BinaryIO, image_size: int | None = None) -> np.ndarray:
    """One image, upright as its EXIF tag says, on white where it is transparent.

    Args:
        file: path or open file.
        image_size: scale to this side and cut the longer axis off evenly at both ends. Default:
            leave it as it is.

    Returns:
        uint8, [Y, X] of a grayscale image and [Y, X, 3] of any other.

    Raises:
        one of the errors of Pillow, or ValueError on pixels that are neither 8 nor 16 bits.
    """
    with Image.open(file) as opened:
        image = opened
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode!r}, expected 8 or 16 bits")
        gray = image.mode in ("1", "L", "LA")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if image.mode != (mode := "L" if gray else "RGB"):
            image = image.convert(mode)
        if image_size is not None and image.size != (image_size, image_size):
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(image)


def read_folder(folder: Path, parts: Iterable[str], image_size: int | None):
    """Decode ``folder``/PART/CLASS/.../FILE.

    Args:
        folder: of the parts.
        parts: names of folders to read.
        image_size: see :func:`decode`.

    Returns:
        Images, and {path within ``folder``: what is wrong} of all other files.
    """
    files = []
    for part in parts:
        found = sorted(path for path in (folder / part).rglob("*") if path.is_file())
        files += [(path.relative_to(folder).as_posix(), path) for path in found]
    return _decode_all(files, image_size)


def read_archive(path: Path):
    """Decode the members PART/CLASS/FILE of a tar archive, compressed or not, in one pass.

    Returns:
        as :func:`read_folder`.
    """
    try:
        # A stream is never wound back, so a compressed archive is unpacked once.
        with tarfile.open(path, "r|*") as archive:
            members = ((m.name, archive.extractfile(m)) for m in archive if m.isfile())
            return _decode_all((item for item in members if "/" in item[0]), None)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise InputError(
            f"expected a tar archive of images in {path}, got: {error}; download the file again"
        ) from error


def _decode_all(files: Iterable[tuple[str, Path | BinaryIO]], image_size: int | None):
    images: Decoded = {}
    bad: dict[str, str] = {}
    for name, file in files:
        part, *folders, last = name.split("/")
        if not folders:
            bad[name] = "in no class folder"
            continue
        # An archive's own errors must not pass for those of an image in it.
        data = file if isinstance(file, Path) else BytesIO(file.read())
        try:
            images[part, folders[0], "/".join([*folders[1:], last])] = decode(data, image_size)
        except _UNREADABLE as error:
            # Of an unknown format Pillow only repeats the path.
            unknown = isinstance(error, Image.UnidentifiedImageError)
            bad[name] = "not an image" if unknown else str(error)
    return images, bad


def report_bad(bad: dict[str, str], total: int) -> str:
    """One line that counts what could not be read and names each with its fault."""
    listed = ", ".join(f"{name} ({fault})" for name, fault in bad.items())
    return f"{len(bad)} of {total} files could not be read as images and are left out: {listed}"


def stack(images: Decoded, classes: list[str], remedy: str = "") -> Parts:
    """Tensors of each part, ordered by class and file name.

    Grayscale images stay one channel only if all of them are, in all parts.

    Args:
        images: as decoded; left empty, for its memory.
        classes: their names, in the order of the labels.
        remedy: for the error on images of several sizes.
    """
    sizes = sorted({image.shape[:2] for image in images.values()})
    if len(sizes) > 1:
        (y, x), (y2, x2) = sizes[0], sizes[-1]
        raise InputError(
            f"expected images of one size, got {len(sizes)} sizes from {y} x {x} to {y2} x {x2} "
            f"(height x width){remedy}"
        )
    channels = 1 if all(image.ndim == 2 for image in images.values()) else 3
    parts = {}
    for part in sorted({key[0] for key in images}):
        keys = sorted(key for key in images if key[0] == part)
        array = np.empty((len(keys), channels, *sizes[0]), dtype=np.uint8)
        for row, key in zip(array, keys):
            image = images.pop(key)
            row[:] = image if image.ndim == 2 else image.transpose(2, 0, 1)
        labels = torch.tensor([classes.index(key[1]) for key in keys])
        parts[part] = (torch.from_numpy(array), labels)
    return parts
