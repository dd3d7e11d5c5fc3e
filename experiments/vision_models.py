"""Image models by name, on equal terms: pLSTM, and a ViT and a CNN of the same size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets import InputError
from experiments.models import closest_width, count_parameters
from plstm_graph.nn import PLSTMVision
from plstm_graph.nn.patches import PatchEmbedding

NAMES = ("plstm", "vit", "cnn")


@dataclass(frozen=True)
class VisionConfig:
    """A model: everything needed to rebuild it from a checkpoint.

    Args:
        name: one of :data:`NAMES`.
        image_size: (Y, X) in pixels.
        channels: of the images.
        classes: outputs.
        patch: side of a patch in pixels; the CNN reads pixels.
        width: channels; of the CNN, those of its first stage.
        depth: blocks.
        heads: heads of pLSTM and ViT.
        pooling: of pLSTM "corners" or "mean", of ViT "token" or "mean".
        stem: of pLSTM and ViT, see :class:`plstm_graph.nn.patches.PatchEmbedding`.
        bias: of pLSTM and ViT, see :class:`plstm_graph.nn.PLSTMVision`.
        options: further arguments of :class:`plstm_graph.nn.PLSTMVision`.
    """

    name: str
    image_size: tuple[int, int]
    channels: int
    classes: int
    patch: int
    width: int
    depth: int
    heads: int
    pooling: str = "mean"
    stem: str = "linear"
    bias: bool = True
    options: dict[str, Any] = field(default_factory=dict)


def build(config: VisionConfig) -> nn.Module:
    """The model, images [B, channels, Y, X] -> [B, classes].

    Raises:
        InputError: on an unknown name or options that do not go together.
    """
    try:
        return _make(config)
    except ValueError as error:
        raise InputError(str(error)) from None


def _make(c: VisionConfig) -> nn.Module:
    if c.name == "plstm":
        return PLSTMVision(
            tuple(c.image_size), c.patch, c.classes, width=c.width, depth=c.depth, heads=c.heads,
            in_channels=c.channels, pooling=c.pooling, stem=c.stem, bias=c.bias, **c.options,
        )  # fmt: skip
    if c.name == "vit":
        return ViT(c)
    if c.name == "cnn":
        return ResidualCNN(c.channels, c.classes, c.width, c.depth, min(c.image_size))
    raise ValueError(f"expected a model out of {', '.join(NAMES)}, got {c.name!r}")


def match_budget(config: VisionConfig, budget: int) -> VisionConfig:
    """The config with the width whose parameter count is closest to ``budget``."""

    def size(width: int) -> int:
        with torch.device("meta"):  # only the shapes count
            return count_parameters(build(replace(config, width=width)))

    step = config.heads if config.name != "cnn" else 1
    return replace(config, width=closest_width(size, budget, step))


class ViT(nn.Module):
    """A vision transformer ("An Image is Worth 16x16 Words", arXiv 2010.11929), pre-norm.

    It reads patches as :class:`plstm_graph.nn.PLSTMVision` does, and like it runs at other sizes,
    for which the position embedding is interpolated.

    Args:
        config: ``pooling`` is "token", a class token, or "mean" of all patches.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        if config.pooling not in ("token", "mean"):
            raise ValueError(f"expected pooling 'token' or 'mean', got {config.pooling!r}")
        # Positions as large as the embedded patches: beside much smaller ones (0.02 is common for
        # wide models) a narrow model takes the image for a bag of patches, and hardly learns.
        self.embed = PatchEmbedding(
            config.image_size, config.patch, config.channels, width, stem=config.stem,
            position=0.5, bias=config.bias,
        )  # fmt: skip
        token = nn.Parameter(torch.empty(1, 1, width)) if config.pooling == "token" else None
        self.register_parameter("token", token)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, config.heads, 4 * width, dropout=0.0, activation="gelu",
                    batch_first=True, norm_first=True, bias=config.bias,
                )
                for _ in range(config.depth)
            )
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, bias=config.bias)
        self.head = nn.Linear(width, config.classes)
        if self.token is not None:
            nn.init.normal_(self.token, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.token is not None else x.mean(1))


class ResidualCNN(nn.Module):
    """A small residual network ("Deep Residual Learning", arXiv 1512.03385) for small images.

    Stages of blocks of two 3 x 3 convolutions, each stage with half the resolution and twice the
    channels of the one before, at most three and none below 4 x 4 pixels; then the global mean.

    Args:
        channels: of the images.
        classes: outputs.
        width: channels of the first stage.
        depth: number of blocks.
        side: of the images in pixels.
    """

    def __init__(self, channels: int, classes: int, width: int, depth: int, side: int) -> None:
        super().__init__()
        stages = max(1, min(3, depth, (side // 4).bit_length()))
        sizes = [width << (stages * i // depth) for i in range(depth)]
        self.stem = nn.Sequential(_conv(channels, width), nn.ReLU())
        self.blocks = nn.Sequential(*(_Residual(a, b) for a, b in zip([width, *sizes[:-1]], sizes)))
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        stride = 1 if channels == out else 2
        self.branch = nn.Sequential(_conv(channels, out, stride), nn.ReLU(), _conv(out, out))
        self.skip = nn.Identity() if channels == out else _conv(channels, out, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.skip(x) + self.branch(x))


def _conv(channels: int, out: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out)
    )
