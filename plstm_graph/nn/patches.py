"""From images to the features of their patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from plstm_graph.checks import choice, describe, integer, real, refuse
from plstm_graph.nn.checks import check_features, check_options

STEMS = ("linear", "conv")
#: Channels of a stem's first convolution; each further one but the last has twice as many.
STEM_CHANNELS = 16


class PatchEmbedding(torch.nn.Module):
    """Patches to vectors, and a learned position embedding that is interpolated to other sizes.

    Args:
        image_size: pixels (Y, X), or one number for both, for which the position embedding is
            made.
        patch_size: pixels (Y, X) of a patch, or one number for both.
        in_channels: of the image.
        width: of the output.
        stem: ``"linear"``, one linear map of each patch (as published), or ``"conv"``, strided
            3 x 3 convolutions down to the patches ("Early Convolutions Help Transformers See
            Better", arXiv 2106.14881), which see shapes wherever they lie within a patch and
            across patches. Default ``"linear"``.
        position: standard deviation of the position embedding, or ``None`` for none.
            Default 0.02.
        bias: of the maps. Default ``True``.

    Shapes:
        - **input:** images [B, in_channels, Y, X]
        - **output:** [B, rows, columns, width]

    Raises:
        ValueError: on bad options, and on images of another number of channels, or that the
            patch does not divide.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        in_channels: int,
        width: int,
        *,
        stem: str = "linear",
        position: float | None = 0.02,
        bias: bool = True,
    ) -> None:
        super().__init__()
        choice("stem", stem, STEMS)
        integer("in_channels", in_channels, 1)
        check_options(width=width, bias=bias)
        if position is not None:
            real("position", position, 0.0)
        self.patch_size = _pair("patch_size", patch_size)
        self.in_channels, self.position_std = in_channels, position
        rows, columns = self.patches(*_pair("image_size", image_size))
        if stem == "linear":
            self.stem = torch.nn.Conv2d(
                in_channels, width, self.patch_size, self.patch_size, bias=bias
            )
        else:
            self.stem = _conv_stem(in_channels, width, self.patch_size, bias)
        table = (
            None if position is None else torch.nn.Parameter(torch.empty(1, width, rows, columns))
        )
        self.register_parameter("position", table)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Resets all learnable parameters of the module."""
        for module in self.stem.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.reset_parameters()
                if module is not self.stem:  # nothing normalises what comes out of a stem's layer
                    torch.nn.init.kaiming_normal_(module.weight)
        if self.position is not None:
            std = self.position_std
            torch.nn.init.trunc_normal_(self.position, std=std, a=-2 * std, b=2 * std)

    def patches(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.patch_size
        if height < 1 or width < 1 or height % rows or width % columns:
            raise ValueError(
                f"expected images that patches of {rows} x {columns} pixels divide, got "
                f"{height} x {width}; pad or resize them"
            )
        return height // rows, width // columns

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [B, in_channels, Y, X]."""
        weight = next(self.stem.parameters())
        check_features("images", images, "B", self.in_channels, "Y", "X", weight=weight)
        size = self.patches(*images.shape[2:])
        x = self.stem(images)
        if self.position is not None:
            position = self.position
            if position.shape[2:] != size:
                position = F.interpolate(position, size, mode="bicubic", align_corners=False)
            x = x + position
        return x.movedim(1, -1)


def _conv_stem(
    in_channels: int, width: int, patch: tuple[int, int], bias: bool
) -> torch.nn.Sequential:
    """Convolutions with GELUs in between, one for each prime factor of the longer side."""
    factors = [_prime_factors(side) for side in patch]
    count = max(map(len, factors))
    if not count:
        raise ValueError("expected patches of more than one pixel for stem 'conv', got 1 x 1")
    strides = list(zip(*([1] * (count - len(f)) + f for f in factors)))
    layers: list[torch.nn.Module] = []
    channels = in_channels
    for i, stride in enumerate(strides):
        out = width if i == count - 1 else min(width, STEM_CHANNELS << i)
        # Windows overlap where the stride is less than 3, and touch each other where it is more.
        kernel = tuple(max(3, s) for s in stride)
        padding = tuple(1 if s < 3 else 0 for s in stride)
        layers += [
            torch.nn.Conv2d(channels, out, kernel, stride, padding, bias=bias),
            torch.nn.GELU(),
        ]
        channels = out
    return torch.nn.Sequential(*layers[:-1])


def _prime_factors(number: int) -> list[int]:
    """In ascending order."""
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found


def _pair(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    whole = (int, np.integer)
    pair = (size, size) if isinstance(size, whole) else size
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        refuse(name, "as one or two positive integers", describe(size))
    if any(not isinstance(s, whole) or isinstance(s, bool) or s < 1 for s in pair):
        refuse(name, "as one or two positive integers", describe(size))
    return tuple(pair)
