"""Pictures of an arrow and a circle from their geometry, whole batches at once in numpy.

Every pixel's darkness is the share of the pixel that the shape covers, taken from the signed
distance of the pixel's centre to the shape's border. Shapes are small beside the image, so only a
window around each is computed, and written through a strided view of the batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

HEAD_ANGLE = 0.5  # radians between the shaft and each stroke of the head
HEAD_LENGTH = 0.5  # of a stroke of the head, in lengths of the arrow

# Images drawn at a time: their windows stay in the processor's cache.
_BLOCK = 64


class Geometry(NamedTuple):
    """What is on each of B images; all fields have shape [B].

    Positions and sizes are float64 in pixels, x to the right and y down from the upper left
    corner of the image, so that the centre of the first pixel is (0.5, 0.5).

    Args:
        arrow_x, arrow_y: middle of the arrow's shaft.
        angle: where the arrow points, in radians in [-pi, pi): 0 to the right, pi / 2 down.
        length: of the shaft, from tail to tip.
        width: of the strokes.
        circle_x, circle_y: centre of the circle.
        radius: of the circle.
        label: int64, 1 where the arrow points at the circle, else 0.
    """

    arrow_x: np.ndarray
    arrow_y: np.ndarray
    angle: np.ndarray
    length: np.ndarray
    width: np.ndarray
    circle_x: np.ndarray
    circle_y: np.ndarray
    radius: np.ndarray
    label: np.ndarray


def render(geometry: Geometry, side: int) -> np.ndarray:
    """Draw a filled circle and an arrow of three strokes, black on white.

    The strokes have round ends: the shaft, and two strokes of the head from the tip backwards.

    Args:
        geometry: B images; shapes lie inside the image, and the two do not touch each other.
        side: of the images, in pixels.

    Returns:
        uint8 [B, side, side], axes (y, x), 255 white.
    """
    images = np.full((len(geometry.label), side, side), 255, dtype=np.uint8)
    for start in range(0, len(images), _BLOCK):
        block = Geometry(*(column[start : start + _BLOCK] for column in geometry))
        _draw_circle(images[start : start + _BLOCK], block)
        _draw_arrow(images[start : start + _BLOCK], block)
    return images


def _draw_circle(images: np.ndarray, g: Geometry) -> None:
    view, x, y = _windows(images, g.circle_x, g.circle_y, g.radius.max())
    cover = np.square(x) + np.square(y)
    np.sqrt(cover, out=cover)
    np.subtract(_column(g.radius + 0.5), cover, out=cover)
    np.clip(cover, 0, 1, out=cover)
    _darken(view, cover)


def _draw_arrow(images: np.ndarray, g: Geometry) -> None:
    # The tip's half of the shaft and the head's opening, with half a stroke around them.
    reach = np.hypot(0.5 * g.length, HEAD_LENGTH * math.sin(HEAD_ANGLE) * g.length).max()
    view, x, y = _windows(images, g.arrow_x, g.arrow_y, reach + 0.5 * g.width.max())
    cos, sin, half = _column(np.cos(g.angle)), _column(np.sin(g.angle)), _column(0.5 * g.length)
    along, across = cos * x + sin * y, cos * y - sin * x
    np.abs(across, out=across)  # the arrow is its own mirror image: one stroke stands for both
    squared = np.maximum(np.abs(along) - half, 0)
    np.square(squared, out=squared)
    squared += np.square(across)

    # The same for the head, in coordinates along and across its stroke, from the tip.
    along -= half
    stroke = math.sin(HEAD_ANGLE) * across - math.cos(HEAD_ANGLE) * along
    aside = math.sin(HEAD_ANGLE) * along + math.cos(HEAD_ANGLE) * across
    stroke -= np.clip(stroke, 0, 2 * HEAD_LENGTH * half)
    np.square(stroke, out=stroke)
    stroke += np.square(aside)

    cover = np.sqrt(np.minimum(squared, stroke, out=squared), out=squared)
    np.subtract(_column(0.5 * g.width + 0.5), cover, out=cover)
    # A stroke thinner than a pixel covers no pixel wholly.
    np.clip(cover, 0, _column(np.minimum(g.width, 1)), out=cover)
    _darken(view, cover)


def _windows(images: np.ndarray, x: np.ndarray, y: np.ndarray, reach: float):
    """Square windows that hold all within ``reach`` pixels of points x, y [B].

    Returns:
        (all windows of the batch, rows of B among them) for :func:`_darken`, and the places of
        the pixels' centres relative to the points, float32 [B, 1, k] in x and [B, k, 1] in y.
    """
    side = images.shape[-1]
    half = math.ceil(reach + 1)  # a pixel is touched up to half a pixel outside of a shape
    k = min(2 * half + 1, side)
    left = np.clip(x.astype(np.int64) - half, 0, side - k)
    top = np.clip(y.astype(np.int64) - half, 0, side - k)
    steps = np.arange(k) + 0.5
    across = ((left - x)[:, None] + steps).astype(np.float32)[:, None, :]
    down = ((top - y)[:, None] + steps).astype(np.float32)[:, :, None]
    windows = sliding_window_view(images, (k, k), axis=(1, 2), writeable=True)
    return (windows, (np.arange(len(images)), top, left)), across, down


def _darken(view: tuple, cover: np.ndarray) -> None:
    """Lower the pixels of the windows to white less ``cover`` in [0, 1], float32 [B, k, k]."""
    windows, rows = view
    cover *= -255
    cover += 255.5  # to the nearest of 256 greys
    # A window may reach into the other shape, which stays.
    windows[rows] = np.minimum(windows[rows], cover.astype(np.uint8))


def _column(values: np.ndarray) -> np.ndarray:
    """[B] as float32 [B, 1, 1]."""
    return values.astype(np.float32)[:, None, None]
