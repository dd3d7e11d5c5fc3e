"""The pLSTM vision model: an image is a grid of patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from plstm_graph.nn.grid import PLSTMGrid

POOLINGS = ("corners", "mean")
#: Width and heads of the published sizes; all have 12 blocks and patches of 16 pixels.
PRESETS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


class GridBlock(torch.nn.Module):
    r"""A pre-norm residual block: :class:`PLSTMGrid`, then a feed-forward.

    .. math::
        y = x + \mathrm{drop}(\mathrm{PLSTM}(\mathrm{norm}(x))), \qquad
        z = y + \mathrm{drop}(\mathrm{FFN}(\mathrm{norm}(y)))

    Args:
        channels: width.
        heads: heads of the layer.
        ffn_ratio: width of the feed-forward's hidden layer over ``channels``.
        dropout: of both branches, and inside the feed-forward.
        **kwargs: of :class:`PLSTMGrid`.

    Shapes:
        - **input, output:** [B, *shape, channels]
    """

    def __init__(
        self, channels: int, heads: int, *, ffn_ratio: float, dropout: float, **kwargs: Any
    ) -> None:
        super().__init__()
        hidden = round(channels * ffn_ratio)
        self.norm = torch.nn.LayerNorm(channels)
        self.layer = PLSTMGrid(channels, heads, **kwargs)
        self.dropout = torch.nn.Dropout(dropout)
        self.ffn_norm = torch.nn.LayerNorm(channels)
        self.ffn = torch.nn.Sequential(
            torch.nn.Linear(channels, hidden),
            torch.nn.GELU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(hidden, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.layer(self.norm(x)))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class PLSTMVision(torch.nn.Module):
    r"""Images to classes: patches, blocks of alternating modes, pooling and a linear head.

    The model of the `"pLSTM: parallelizable Linear Source Transition Mark networks"
    <https://arxiv.org/abs/2506.11997>`_ paper. It runs at any size whose sides the patch divides,
    whatever size it was trained at.

    Args:
        image_size: pixels (Y, X), or one number for both, for which the position embedding is
            made; it is interpolated to others.
        patch_size: pixels (Y, X) of a patch, or one number for both.
        num_classes: outputs.
        width: channels of all blocks.
        depth: number of blocks.
        heads: heads of each layer.
        in_channels: of the image. Default 3.
        modes: the mode of each block, a pattern that is repeated. Default ``"PD"``.
        pooling: ``"corners"``, the mean of the four corner patches (as published: each corner has
            seen the whole image), or ``"mean"`` of all patches. Default ``"corners"``.
        position: add a learned position embedding. Default ``True``.
        conv: see :class:`PLSTMGrid`. Default 3.
        passthrough: see :class:`PLSTMGrid`. Default ``True``.
        ffn_ratio: width of the feed-forward's hidden layer over ``width``. Default 4.
        dropout: in the blocks. Default 0.
        **kwargs: of :class:`PLSTMGrid`: ``angle``, ``gate_weights``, ``gate_std``, ``form``, ...

    Shapes:
        - **input:** images [B, in_channels, Y, X]
        - **output:** [B, num_classes]

    Raises:
        ValueError: on bad options, and on images of another number of channels, or that the
            patch does not divide.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        num_classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
        in_channels: int = 3,
        modes: str = "PD",
        pooling: str = "corners",
        position: bool = True,
        conv: int = 3,
        passthrough: bool = True,
        ffn_ratio: float = 4.0,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if not modes or set(modes) - {"P", "D"}:
            raise ValueError(f"expected modes as a pattern of 'P' and 'D', got {modes!r}")
        if pooling not in POOLINGS:
            raise ValueError(f"expected pooling as one of {POOLINGS}, got {pooling!r}")
        self.patch_size = _pair("patch_size", patch_size)
        self.in_channels, self.num_classes, self.pooling = in_channels, num_classes, pooling
        rows, columns = self._patches(*_pair("image_size", image_size))
        self.embed = torch.nn.Conv2d(in_channels, width, self.patch_size, self.patch_size)
        table = torch.nn.Parameter(torch.empty(1, width, rows, columns)) if position else None
        self.register_parameter("position", table)
        self.blocks = torch.nn.ModuleList(
            GridBlock(
                width, heads, ffn_ratio=ffn_ratio, dropout=dropout, mode=modes[i % len(modes)],
                conv=conv, passthrough=passthrough, **kwargs,
            )
            for i in range(depth)
        )  # fmt: skip
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, num_classes)
        self.reset_parameters()

    @classmethod
    def preset(cls, name: str, num_classes: int = 1000, **kwargs: Any) -> PLSTMVision:
        """A published size: ``"tiny"``, ``"small"`` or ``"base"``, 192, 384 or 768 wide with 3, 6
        or 12 heads, 12 blocks and patches of 16 pixels; ``image_size`` is 224 by default."""
        if name not in PRESETS:
            raise ValueError(f"expected a preset out of {', '.join(PRESETS)}, got {name!r}")
        width, heads = PRESETS[name]
        sizes = {"image_size": 224, "patch_size": 16, "width": width, "depth": 12, "heads": heads}
        return cls(num_classes=num_classes, **{**sizes, **kwargs})

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew.

        Maps start as plain PyTorch ones. The smaller start of ViT, N(0, 0.02), is not for this
        model: source and mark start almost closed, and what a corner hears of the image is a
        product of query, key, value and both gates, which would drown in the norm's epsilon.
        """
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        if self.position is not None:
            torch.nn.init.trunc_normal_(self.position, std=0.02, a=-0.04, b=0.04)

    def _patches(self, height: int, width: int) -> tuple[int, int]:
        """Patches along each axis."""
        rows, columns = self.patch_size
        if height < 1 or width < 1 or height % rows or width % columns:
            raise ValueError(
                f"expected images that patches of {rows} x {columns} pixels divide, got "
                f"{height} x {width}; pad or resize them"
            )
        return height // rows, width // columns

    def features(self, images: Tensor) -> Tensor:
        """[B, in_channels, Y, X] -> features of all patches [B, rows, columns, width]."""
        if images.dim() != 4 or images.size(1) != self.in_channels:
            raise ValueError(
                f"expected images of shape [B, {self.in_channels}, Y, X], got {list(images.shape)}"
            )
        size = self._patches(*images.shape[2:])
        x = self.embed(images)
        if self.position is not None:
            position = self.position
            if position.shape[2:] != size:
                position = F.interpolate(position, size, mode="bicubic", align_corners=False)
            x = x + position
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores [B, num_classes] of images [B, in_channels, Y, X]."""
        x = self.features(images)
        if self.pooling == "corners":
            x = (x[:, 0, 0] + x[:, 0, -1] + x[:, -1, 0] + x[:, -1, -1]) / 4
        else:
            x = x.mean((1, 2))
        return self.head(x)


def _pair(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(s, int) or s < 1 for s in pair):
        raise ValueError(f"expected {name} as one or two positive integers, got {size!r}")
    return pair
