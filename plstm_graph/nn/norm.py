"""Normalisation of the heads: their outputs, their queries and keys."""

import torch
import torch.nn.functional as F
from torch import Tensor

from plstm_graph.checks import integer, real


class HeadRMSNorm(torch.nn.Module):
    r"""Root mean square norm of each head by itself.

    .. math::
        y_h = s_h \odot x_h / \sqrt{\mathrm{mean}(x_h^2) + \epsilon}

    Args:
        heads: H.
        channels: V, the width of a head.
        eps: added under the root. Default 1e-5.

    Shapes:
        - **input, output:** [N, H, V]; optional second input: :func:`mean_square` of the first
    """

    def __init__(self, heads: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        integer("heads", heads, 1)
        integer("channels", channels, 1)
        self.eps = real("eps", eps, 0.0)
        self.scale = torch.nn.Parameter(torch.empty(heads, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set all scales to one."""
        torch.nn.init.ones_(self.scale)

    def forward(self, x: Tensor, square: Tensor | None = None) -> Tensor:
        if square is None or x.device.type != "cpu":  # elsewhere torch has one kernel for it
            return (F.rms_norm(widened(x), (x.size(-1),), eps=self.eps) * self.scale).to(x.dtype)
        return (x * (square + self.eps).rsqrt() * self.scale).to(x.dtype)

    def __repr__(self) -> str:
        heads, channels = self.scale.shape
        return f"{type(self).__name__}({heads}, {channels}, eps={self.eps})"


def widened(x: Tensor) -> Tensor:
    """Halves as float32, where squares and sums do not leave their range; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def mean_square(x: Tensor) -> Tensor:
    """The mean of squares over the last axis, [N, H, V] -> [N, H, 1] in float32 or float64."""
    # Not mean(): its derivative is a division as large as x.
    return widened(x).square().sum(-1, keepdim=True) / x.size(-1)


def log_rms(x: Tensor, square: Tensor | None = None) -> Tensor:
    r"""The size of each head's output, which :class:`HeadRMSNorm` takes away.

    .. math::
        0.3 \cdot \tfrac12 \log(\mathrm{mean}(x_h^2) + 10^{-12})

    A state that is passed on d times with a transition T has shrunk by :math:`T^d`: the logarithm
    is linear in the distance. Computed in float32 or float64, finite at zero.

    Shapes:
        - **input:** [N, H, V], and :func:`mean_square` of it, if known
        - **output:** [N, H] in the dtype of the input
    """
    square = mean_square(x) if square is None else square
    return (0.15 * square.squeeze(-1).add(1e-12).log()).to(x.dtype)


def unit_length(x: Tensor) -> Tensor:
    r""":math:`x / \max(\|x\|, 10^{-12})` over the last axis, any shape. Computed in float32 or
    float64.

    As ``F.normalize``, by a product: its division takes twice the time, forward and backward.
    """
    wide = widened(x)
    return (wide * wide.square().sum(-1, keepdim=True).clamp_min(1e-24).rsqrt()).to(x.dtype)
