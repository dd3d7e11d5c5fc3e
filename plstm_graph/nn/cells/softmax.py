r"""Transitions and input gates that share one softmax, row by row.

For a group of predecessors l (the line edges into an edge, or the edges into a node) with logits
:math:`z_l` [R, J] and an input gate with the logit :math:`y` [R]:

.. math::
    (T_{l, ij},\ a_i) = \mathrm{softmax}_{(l, j)}(z_{l, ij},\ y_i)

All entries are positive and each row sums to one over the predecessors, their J states and the
input, so that a state is a weighted mean of the states before it and of its input: nothing is ever
larger than the largest input, on any graph. A group without predecessors counts one virtual one,
whose state is zero, as a sequence cell does before its first step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def joint_softmax(
    logit: Tensor, write: Tensor, virtual: Tensor, group: Tensor
) -> tuple[Tensor, Tensor]:
    """See the module.

    Args:
        logit: [L, *, R, J] of the predecessors.
        write: [G, *, R] of the inputs.
        virtual: [G, *, R, J] of the virtual predecessors.
        group: [L] the group of each predecessor.

    Returns:
        The transitions [L, *, R, J] and the input gates [G, *, R].
    """
    alone = torch.ones(write.size(0), dtype=torch.bool, device=group.device)
    alone = alone.index_fill(0, group, False).view(-1, *[1] * (write.dim() - 1))
    row = logit.logsumexp(-1)
    empty = torch.where(alone, virtual.logsumexp(-1), -torch.inf)
    index = group.view(-1, *[1] * (row.dim() - 1)).expand_as(row)
    with torch.no_grad():  # a shift changes nothing
        top = write.maximum(empty).scatter_reduce(0, index, row, "amax")
    total = (write - top).exp() + (empty - top).exp()
    total = total.scatter_add(0, index, (row - top.index_select(0, group)).exp())
    shift = top + total.log()
    return (logit - shift.index_select(0, group).unsqueeze(-1)).exp(), (write - shift).exp()
