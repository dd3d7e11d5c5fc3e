"""What is drawn is what the geometry says, antialiased."""

import numpy as np
import pytest
import torch

from datasets import ArrowPointing, as_float
from datasets.arrow_rendering import HEAD_ANGLE, HEAD_LENGTH, Geometry, render


def shapes(count, **fields):
    """``count`` images of 64 pixels: an arrow at (20, 20), and a circle at (44, 44)."""
    values = {"arrow_x": 20, "arrow_y": 20, "angle": 0, "length": 8, "width": 2}
    values |= {"circle_x": 44, "circle_y": 44, "radius": 6, "label": 1} | fields
    return Geometry(*(np.broadcast_to(values[name], count) for name in Geometry._fields))


def test_area_of_the_circle():
    rng = np.random.default_rng(0)
    g = shapes(200, radius=rng.uniform(3, 8, 200), circle_x=rng.uniform(40, 50, 200))
    dark = 1 - render(g, 64)[:, 32:, 32:] / 255
    area = np.pi * g.radius**2
    assert dark.sum((1, 2)) == pytest.approx(area, rel=0.02)
    y, x = np.mgrid[32:64, 32:64] + 0.5
    assert (dark * x).sum((1, 2)) / dark.sum((1, 2)) == pytest.approx(g.circle_x, abs=0.03)
    assert (dark * y).sum((1, 2)) / dark.sum((1, 2)) == pytest.approx(g.circle_y, abs=0.03)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.5])
def test_arrow_against_supersampling(width):
    """Pixel by pixel against the share of 16 x 16 points inside, at any angle and place."""
    rng = np.random.default_rng(1)
    count, fine = 40, 16
    angle = rng.uniform(-np.pi, np.pi, count)
    g = shapes(count, angle=angle, length=12.3, width=width, arrow_x=rng.uniform(18, 22, count))
    drawn = 1 - render(g, 64)[:, :40, :36] / 255
    y, x = (np.mgrid[: 40 * fine, : 36 * fine] + 0.5) / fine
    exact = np.empty_like(drawn)
    for i in range(count):
        ahead = np.array([np.cos(angle[i]), np.sin(angle[i])])
        middle = np.array([g.arrow_x[i], g.arrow_y[i]])
        tip = middle + g.length[i] / 2 * ahead
        inside = np.zeros(x.shape, dtype=bool)
        ends = [middle - g.length[i] / 2 * ahead]
        for side in (-1, 1):
            back = angle[i] + np.pi + side * HEAD_ANGLE
            ends.append(tip + HEAD_LENGTH * g.length[i] * np.array([np.cos(back), np.sin(back)]))
        for end in ends:
            along = end - tip
            t = ((x - tip[0]) * along[0] + (y - tip[1]) * along[1]) / (along @ along)
            t = t.clip(0, 1)
            inside |= np.hypot(x - tip[0] - t * along[0], y - tip[1] - t * along[1]) <= width / 2
        exact[i] = inside.reshape(40, fine, 36, fine).mean((1, 3))
    assert exact.sum() > 0
    assert abs(drawn - exact).mean() < 0.003
    assert drawn.sum((1, 2)) == pytest.approx(exact.sum((1, 2)), rel=0.12)


def test_all_is_in_the_picture():
    """Shapes at the border of what is allowed are not cut, and windows may overlap."""
    data = ArrowPointing("train", 2000, 45, 0.25)
    images, labels = data.batch(range(2000))
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    x = as_float(images)
    assert x.min() >= 0 and x.max() == 1
    assert (x.amin((1, 2, 3)) == 0).all()  # the circle is black
    g = data.params()
    dark = (1 - x).sum((1, 2, 3)).numpy() - np.pi * g.radius**2
    strokes = g.length * g.width
    # Shaft and head are two lengths of stroke; they overlap at the tip, and their ends are round.
    assert (dark > strokes).all() and (dark < 2.6 * strokes).all()
