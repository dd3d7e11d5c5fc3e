"""Pictures of an image classifier: what it says of test images, and how far its patches see."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from torch import Tensor

from experiments.image_training import ImageModule

RIGHT, WRONG = "#15803d", "#b91c1c"
COLUMNS = 8


def show(axes, image: Tensor) -> None:
    """An image, uint8 [C, Y, X] with one or three channels, without axes."""
    pixels = image.movedim(0, -1).squeeze(-1).numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])


def sample(pred: Tensor, target: Tensor, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Test images to show: some spread evenly over the set, and the surest mistakes."""
    count = min(rows * COLUMNS, len(target))
    spread = torch.arange(count) * len(target) // count
    sure, label = pred.max(1)
    wrong = (label != target).nonzero()[:, 0]
    return spread, wrong[sure[wrong].argsort(descending=True)][:COLUMNS]


def plot_predictions(
    path: Path, images: Tensor, pred: Tensor, target: Tensor, classes: list[str], name: str
) -> None:
    """Test images with the predicted class, its probability, and the true class of mistakes.

    Args:
        path: PNG file.
        images: uint8 [N, C, Y, X].
        pred: [N, classes] probabilities.
        target: [N].
        classes: their names.
        name: of the model.
    """
    spread, wrong = sample(pred, target)
    groups = [
        ("a sample", spread),
        (f"surest of {int((pred.argmax(1) != target).sum())} mistakes", wrong),
    ]
    groups = [(title, chosen) for title, chosen in groups if len(chosen)]
    rows = [-(-len(chosen) // COLUMNS) for _, chosen in groups]
    figure = plt.figure(figsize=(11, 1.75 * sum(rows) + 0.5 * len(rows)), layout="constrained")
    parts = figure.subfigures(
        len(rows), 1, height_ratios=[row + 0.2 for row in rows], squeeze=False
    )
    for part, (title, chosen), count in zip(parts[:, 0], groups, rows):
        part.suptitle(f"{name}, test images: {title}", fontsize=11)
        cells = part.subplots(count, COLUMNS, squeeze=False).ravel()
        for axes in cells:
            axes.axis("off")
        for axes, i in zip(cells, chosen.tolist()):
            axes.axis("on")
            show(axes, images[i])
            label, truth = int(pred[i].argmax()), int(target[i])
            text = f"{classes[label][:12]}  {pred[i, label]:.2f}"
            if label != truth:
                text += f"\ntrue: {classes[truth][:12]}"
            axes.set_title(text, fontsize=9, color=RIGHT if label == truth else WRONG, pad=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


@torch.no_grad()
def gating_fields(module: ImageModule, image: Tensor) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Gating matrices of the first block of each mode on an image, and their sum.

    Args:
        module: with a trained :class:`plstm_graph.nn.PLSTMVision`.
        image: uint8 [C, Y, X].

    Returns:
        Title -> mean over heads of |G|, [N, N], and the shape (rows, columns) of the grid.
    """
    layers = {}
    for number, block in enumerate(module.net.blocks, 1):
        layers.setdefault(block.layer.mode, (number, block.layer))
    found, grid = {}, (1, 1)
    hooks = []

    def keep(mode: str, number: int):
        def hook(layer, inputs: tuple[Tensor]) -> None:
            nonlocal grid
            grid = tuple(inputs[0].shape[1:3])
            found[f"{mode}-mode (block {number})"] = layer.gating(inputs[0])[0]

        return hook

    for mode, (number, layer) in layers.items():
        hooks.append(layer.register_forward_pre_hook(keep(mode, number)))
    module.eval()(image[None])
    for hook in hooks:
        hook.remove()
    if len(found) > 1:
        found["both (sum)"] = sum(found.values())
    return {title: matrix.abs().mean(0) for title, matrix in found.items()}, grid


def plot_receptive_field(path: Path, module: ImageModule, image: Tensor) -> None:
    """Rows of gating matrices as heat maps: how much a patch takes from every other.

    Args:
        path: PNG file.
        module, image: see :func:`gating_fields`.
    """
    fields, (rows, columns) = gating_fields(module, image)
    patches = {"centre patch": (rows // 2, columns // 2), "corner patch": (0, 0)}
    width = len(fields) + 1
    figure, grid = plt.subplots(
        2, width, figsize=(2.9 * width, 5.6), squeeze=False, layout="constrained"
    )
    for line, (name, (y, x)) in zip(grid, patches.items()):
        show(line[0], image)
        step = image.size(1) / rows, image.size(2) / columns
        line[0].add_patch(
            Rectangle((x * step[1] - 0.5, y * step[0] - 0.5), step[1], step[0],
                      fill=False, edgecolor="#ea580c", linewidth=2)
        )  # fmt: skip
        line[0].set_ylabel(name, fontsize=11)
        for axes, (title, matrix) in zip(line[1:], fields.items()):
            field = matrix[y * columns + x].view(rows, columns).numpy()
            shown = axes.imshow(field, cmap="magma", norm=PowerNorm(0.5, 0, field.max() or 1))
            axes.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="#38bdf8", linewidth=2)
            )
            axes.set(xticks=[], yticks=[])
            axes.set_title(title, fontsize=11)
            figure.colorbar(shown, ax=axes, shrink=0.85, format="%.1e").ax.tick_params(labelsize=8)
    grid[0][0].set_title("test image", fontsize=11)
    figure.suptitle("|G[n, :]|, mean over heads (colours: square root)", fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)
