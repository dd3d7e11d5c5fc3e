"""The pLSTM vision model: an image is a grid of patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plstm_graph.checks import choice, integer
from plstm_graph.nn.checks import check_heads, check_modes, check_options
from plstm_graph.nn.grid import PLSTMGrid
from plstm_graph.nn.patches import PatchEmbedding

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
        bias: of norms, layer and feed-forward. Default ``True``.
        **kwargs: of :class:`PLSTMGrid`.

    Shapes:
        - **input, output:** [B, *shape, channels]
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        ffn_ratio: float,
        dropout: float,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_heads("channels", channels, heads)
        check_options(ffn_ratio=ffn_ratio, dropout=dropout, bias=bias)
        hidden = max(1, round(channels * ffn_ratio))
        self.norm = torch.nn.LayerNorm(channels, bias=bias)
        self.layer = PLSTMGrid(channels, heads, bias=bias, **kwargs)
        self.dropout = torch.nn.Dropout(dropout)
        self.ffn_norm = torch.nn.LayerNorm(channels, bias=bias)
        self.ffn = torch.nn.Sequential(
            torch.nn.Linear(channels, hidden, bias=bias),
            torch.nn.GELU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(hidden, channels, bias=bias),
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
        position_std: its initial standard deviation. Default 0.02.
        stem: how patches are embedded: ``"linear"`` (as published) or ``"conv"``, see
            :class:`~plstm_graph.nn.patches.PatchEmbedding`. Default ``"linear"``.
        bias: of all maps and norms but the gates' and the head's. Without biases and position
            embedding, a patch of zeros stays zero until something reaches it: however many
            blank patches an image has, they say nothing. Default ``True``.
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
        position_std: float = 0.02,
        stem: str = "linear",
        bias: bool = True,
        conv: int = 3,
        passthrough: bool = True,
        ffn_ratio: float = 4.0,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_heads("width", width, heads)
        check_options(
            num_classes=num_classes,
            depth=depth,
            position=position,
            position_std=position_std,
            ffn_ratio=ffn_ratio,
            dropout=dropout,
        )
        integer("in_channels", in_channels, 1)
        check_modes(modes, kwargs.get("cell", "plstm"))
        choice("pooling", pooling, POOLINGS)
        self.in_channels, self.num_classes, self.pooling = in_channels, num_classes, pooling
        self.embed = PatchEmbedding(
            image_size, patch_size, in_channels, width, stem=stem,
            position=position_std if position else None, bias=bias,
        )  # fmt: skip
        self.patch_size = self.embed.patch_size
        self.blocks = torch.nn.ModuleList(
            GridBlock(
                width, heads, ffn_ratio=ffn_ratio, dropout=dropout, mode=modes[i % len(modes)],
                conv=conv, passthrough=passthrough, bias=bias, **kwargs,
            )
            for i in range(depth)
        )  # fmt: skip
        self.norm = torch.nn.LayerNorm(width, bias=bias)
        self.head = torch.nn.Linear(width, num_classes)
        self.reset_parameters()

    @classmethod
    def preset(cls, name: str, num_classes: int = 1000, **kwargs: Any) -> PLSTMVision:
        """A published size: ``"tiny"``, ``"small"`` or ``"base"``, 192, 384 or 768 wide with 3, 6
        or 12 heads, 12 blocks and patches of 16 pixels; ``image_size`` is 224 by default."""
        choice("name", name, tuple(PRESETS))
        width, heads = PRESETS[name]
        sizes = {"image_size": 224, "patch_size": 16, "width": width, "depth": 12, "heads": heads}
        return cls(num_classes=num_classes, **{**sizes, **kwargs})

    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module.

        Maps start as plain PyTorch ones. The smaller start of ViT, N(0, 0.02), is not for this
        model: source and mark start almost closed, and what a corner hears of the image is a
        product of query, key, value and both gates, which would drown in the norm's epsilon.
        """
        for module in self.modules():
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.embed.reset_parameters()  # last: its maps have a start of their own

    def features(self, images: Tensor) -> Tensor:
        """[B, in_channels, Y, X] -> features of all patches [B, rows, columns, width]."""
        x = self.embed(images)
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
