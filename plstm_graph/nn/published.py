"""Weights of the published graph layer, into and out of a :class:`~plstm_graph.nn.PLSTMConv`.

The published layer has one linear map per gate, which acts on a concatenation of features; here
its columns live in two maps, one of nodes and one of edges. :meth:`PLSTMConv.paper` builds the
layer that computes the same.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plstm_graph.checks import describe, flag, instance, refuse
from plstm_graph.nn.conv import PLSTMConv

#: Of each published map, the parts of ours in the order of its columns.
PARTS = {
    "w_query": [("node", "query")],
    "w_key": [("node", "key")],
    "w_value_": [("node", "value")],
    "w_source": [("node", "source"), ("edge", "source")],
    "w_transition": [
        ("edge", "transition_in"),
        ("edge", "transition_out"),
        ("node", "transition"),
    ],
    "w_mark": [("node", "mark"), ("edge", "mark")],
    "w_direct": [("node", "direct")],
}


def _maps(conv: PLSTMConv) -> dict[str, Any]:
    instance("conv", conv, PLSTMConv, "a PLSTMConv", "PLSTMConv.paper builds one")
    if conv.cell != "plstm":
        refuse("conv", "with cell='plstm', as the published layer", f"cell={conv.cell!r}")
    if conv.projection.lazy:
        raise ValueError(
            "expected conv as an initialised layer, got a lazy one; run it once before"
        )
    if conv.transition_node == "all":
        raise ValueError(
            "expected transition_node='start' (or 'junction'), got 'all', which the published "
            "layer does not have"
        )
    options = {
        "log_norm=False": not conv.log_norm,
        "head_norm=True": conv.norm is not None,
        "direction_offset=False": conv.direction_offset is None,
    }
    if wrong := [option for option, given in options.items() if not given]:
        raise ValueError(
            f"expected a layer with {', '.join(wrong)}, as the published one; build it with "
            f"PLSTMConv.paper"
        )
    maps = {"node": conv.projection.lin_node}
    if conv.projection.lin_edge is not None:
        maps["edge"] = conv.projection.lin_edge
    return maps


def export_published_weights(conv: PLSTMConv, *, grad: bool = False) -> dict[str, Tensor]:
    """The layer's weights under their published names, the inverse of the loader.

    Args:
        conv: an initialised layer.
        grad: give the gradients instead. Default ``False``.
    """
    maps = _maps(conv)
    flag("grad", grad)

    def pick(parameter: Tensor) -> Tensor:
        return parameter.grad if grad else parameter.detach()

    out = {}
    for name, parts in PARTS.items():
        here = [(maps[kind], row) for kind, row in parts if kind in maps]
        out[f"{name}.weight"] = torch.cat([pick(lin.weight)[lin.rows[row]] for lin, row in here], 1)
        node, row = maps["node"], parts[-1][1] if parts[-1][0] == "node" else parts[0][1]
        if node.bias is not None:
            out[f"{name}.bias"] = pick(node.bias)[node.rows[row]].clone()
    out["w_mhnorm.scale"] = pick(conv.norm.scale).clone()
    out["w_out.weight"] = pick(conv.lin_out.weight).clone()
    if conv.lin_out.bias is not None:
        out["w_out.bias"] = pick(conv.lin_out.bias).clone()
    return out


@torch.no_grad()
def load_published_weights(conv: PLSTMConv, weights: Mapping[str, Any]) -> PLSTMConv:
    """Copy the weights of a published graph layer into ``conv``.

    Args:
        conv: a layer of the same sizes, as :meth:`PLSTMConv.paper` builds it.
        weights: by name, tensors or arrays: ``w_{query,key,value_,source,transition,mark,
            direct,out}.{weight,bias}`` and ``w_mhnorm.scale``.

    Returns:
        ``conv``.

    Raises:
        ValueError: if the layer has parts that the published one has not, names are missing or
            unknown, or a shape does not fit.
    """
    expected = export_published_weights(conv)
    instance("weights", weights, Mapping, "a mapping from names to tensors")
    if set(weights) != set(expected):
        missing = sorted(set(expected) - set(weights))
        unknown = sorted(set(weights) - set(expected))
        raise ValueError(
            f"expected weights under the published names, got {missing=} and {unknown=}"
        )
    new = {}
    for name, value in weights.items():
        try:
            value = new[name] = torch.as_tensor(value)
        except (RuntimeError, TypeError, ValueError) as error:
            refuse(f"weights[{name!r}]", "as a tensor or array", describe(value), str(error))
        if value.shape != expected[name].shape:
            raise ValueError(
                f"expected {name} of shape {list(expected[name].shape)}, got "
                f"{list(value.shape)}; build the layer with the published sizes"
            )
    maps = _maps(conv)
    for name, parts in PARTS.items():
        start = 0
        for kind, row in parts:
            lin = maps.get(kind)
            if lin is None:
                continue
            width = lin.in_channels
            columns = new[f"{name}.weight"][:, start : start + width]
            lin.weight[lin.rows[row]] = columns.to(lin.weight)
            start += width
            if lin.bias is not None:
                lin.bias[lin.rows[row]] = new[f"{name}.bias"].to(lin.bias)
    conv.norm.scale.copy_(new["w_mhnorm.scale"])
    conv.lin_out.weight.copy_(new["w_out.weight"])
    if conv.lin_out.bias is not None:
        conv.lin_out.bias.copy_(new["w_out.bias"])
    return conv
