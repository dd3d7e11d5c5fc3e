"""What the layers demand of their options and of their features."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import is_uninitialized_parameter

from plstm_graph.checks import (
    choice,
    dense,
    describe,
    flag,
    integer,
    probability,
    real,
    refuse,
    text,
    width,
)
from plstm_graph.dag.orient import check_orientation
from plstm_graph.nn.cells import cell_modes
from plstm_graph.nn.projection import TRANSITION_NODES
from plstm_graph.ops.checks import BACKENDS, form_names
from plstm_graph.ops.semiring import SEMIRINGS

CHOICES = {
    "normalization": ("source", "target"),
    "transition": ("line", "factored"),
    "transition_node": TRANSITION_NODES,
    "init": ("open", "graph", "grid"),
    "direction": ("auto", "two_way", "forward", "reverse"),
    "aggr": ("add", "sum"),
    "form": form_names(),
    "backend": BACKENDS,
}
FLAGS = (
    *("bias", "bidirectional", "causal", "direction_offset", "gate_weights", "head_norm"),
    *("log_norm", "passthrough", "position", "qk_norm", "return_gates", "zero_init"),
)
COUNTS = ("channels", "heads", "out_channels", "hidden_channels", "num_layers", "head_layers")
#: Options of ``cell="plstm"`` alone, and their defaults.
PLSTM_ALONE = {"normalization": "source", "transition_node": "junction", "transition": "line"}
PLSTM_ALONE |= {"angle": "softmax", "gate_weights": True, "gate_std": 0.0}
PLSTM_ALONE |= {"qk_norm": False, "scale": 1.0, "init": "open"}
COUNTS = (*COUNTS, "depth", "width", "num_classes", "ndim")
SIZES = ("ffn_ratio", "gate_std", "position_std")


def check_options(**options: Any) -> None:
    """Options of a constructor, each by its name, whichever of the layers it belongs to."""
    for name, value in options.items():
        if name in CHOICES:
            choice(name, value, CHOICES[name])
        elif name == "paths" and value is not None:
            choice(name, value, SEMIRINGS[1:], "or None")
        elif name in FLAGS:
            flag(name, value)
        elif name in COUNTS:
            integer(name, value, 1)
        elif name in SIZES:
            real(name, value, 0.0)
        elif name == "in_channels" or (name == "edge_dim" and value is not None):
            width(name, value)
        elif name == "dropout":
            probability(name, value)
        elif name == "scale":
            real(name, value, remedy="to learn a scale, multiply x or the weights by it")
        elif name == "orientation":
            check_orientation(value)


def check_heads(name: str, channels: int, heads: int) -> None:
    """Each head has the same number of channels; ``name`` is what the caller calls them."""
    check_options(**{name: channels, "heads": heads})
    if channels % heads:
        refuse(
            name,
            "divisible by heads",
            f"{name}={channels} and heads={heads}",
            f"a head has {name} / heads channels",
        )


def check_plstm_alone(cell: str, **options: Any) -> None:
    """Options that another cell has not are as they are by default."""
    for name, value in options.items():
        if value != PLSTM_ALONE[name]:
            refuse(
                name, f"to be left out with cell={cell!r}", describe(value), "cell='plstm' has it"
            )


def check_named(name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    """Something that PyG finds by its name, or that is given as it is."""
    if not isinstance(value, str) and not isinstance(value, kind):
        refuse(name, "as a name or a module", describe(value))


def check_modes(modes: Any, cell: str = "plstm") -> None:
    """A pattern of the letters of a cell's modes."""
    letters = cell_modes(cell)
    if not text("modes", modes) or set(modes) - set(letters):
        known = " and ".join(", ".join(map(repr, letters)).rsplit(", ", 1))
        refuse("modes", f"as a pattern of {known}", repr(modes))


def check_features(
    name: str, value: Any, *shape: int | str, weight: Tensor | None = None, remedy: str = ""
) -> Tensor:
    """Features of the dtype and on the device of the layer's weights.

    Under autocast the dtype is free. A weight that is lazy demands nothing.
    """
    dense(name, value, *shape, remedy=remedy)
    if weight is None or is_uninitialized_parameter(weight):
        return value
    if value.device != weight.device:
        expected = f"on {weight.device} like the layer's weights"
        refuse(name, expected, str(value.device), "move one of them with .to()")
    if value.dtype != weight.dtype and not torch.is_autocast_enabled(value.device.type):
        expected = f"of dtype {weight.dtype} like the layer's weights"
        refuse(name, expected, str(value.dtype), "convert one of them with .to()")
    return value


def check_x(x: Any, in_channels: int, weight: Tensor | None) -> None:
    """``x`` is [N, in_channels]; a width of -1 is not known yet."""
    known = in_channels > 0
    check_features(
        "x",
        x,
        "N",
        in_channels if known else "in_channels",
        weight=weight,
        remedy=_other_width(x, in_channels, "in_channels"),
    )


def _other_width(value: Any, channels: int, option: str) -> str:
    """The remedy where nothing but the number of channels is wrong."""
    other = isinstance(value, Tensor) and value.dim() == 2 and value.size(1) != channels > 0
    remedy = f"{option} is {channels}: change it, or leave it to the first input with -1"
    return remedy if other else ""


def check_edge_attr(
    edge_attr: Any, edge_dim: int | None, rows: int, x: Tensor, weight: Tensor | None
) -> Tensor | None:
    """``edge_attr`` is there if and only if ``edge_dim`` is, and has its shape [M, edge_dim]."""
    if edge_dim is None:
        if edge_attr is None:
            return None
        got = list(edge_attr.shape) if isinstance(edge_attr, Tensor) else type(edge_attr).__name__
        wide = got[-1] if isinstance(got, list) and len(got) > 1 else 1
        raise ValueError(
            f"expected no edge_attr (edge_dim=None), got {got}; build the layer with "
            f"edge_dim={wide}"
        )
    if edge_attr is None:
        raise ValueError(
            f"expected edge_attr with {edge_dim} channels (edge_dim), got None; "
            f"pass it, or build the layer with edge_dim=None"
        )
    if isinstance(edge_attr, Tensor) and edge_attr.dim() == 1:
        edge_attr = edge_attr.unsqueeze(-1)
    channels = edge_dim if edge_dim > 0 else "edge_dim"
    check_features(
        "edge_attr",
        edge_attr,
        "M",
        channels,
        weight=weight,
        remedy=_other_width(edge_attr, edge_dim, "edge_dim"),
    )
    if edge_attr.size(0) != rows:
        raise ValueError(
            f"expected edge_attr with {rows} rows (one per column of edge_index), "
            f"got {edge_attr.size(0)}; index it as the edge_index that the line graph was made of"
        )
    if edge_attr.device != x.device:
        refuse("edge_attr", f"on {x.device} like x", str(edge_attr.device), "move it with .to()")
    return edge_attr


def check_rows(
    name: str, value: Any, rows: int | None = None, device: torch.device | None = None
) -> None:
    """What an encoder reads: a dense tensor of any dtype with one row for each node or edge."""
    known = "N" if rows is None else rows
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.dim() < 1:
        refuse(name, f"as a dense tensor [{known}, *]", value, "the encoder reads it")
    if rows is not None and value.size(0) != rows:
        refuse(name, f"with {rows} rows", str(value.size(0)), "one per column of edge_index")
    if device is not None and value.device != device:
        refuse(name, f"on {device} like x", str(value.device), "move it with .to()")


def check_batch_vector(batch: Any, x: Tensor, batch_size: int | None = None) -> None:
    """``batch`` is [N] int64 from 0 to batch_size - 1. On GPUs, where a look at the numbers would
    wait for all work before it, only its shape is checked."""
    if batch_size is not None:
        integer("batch_size", batch_size, 0)
    if batch is None:
        return
    dense("batch", batch, x.size(0), dtype=torch.int64, device=x.device)
    if torch.compiler.is_compiling() or batch.device.type != "cpu" or not batch.numel():
        return
    if int(batch.min()) < 0:
        refuse("batch", "of 0 or more", str(int(batch.min())))
    if batch_size is not None and int(batch.max()) >= batch_size:
        refuse("batch", f"below batch_size={batch_size}", str(int(batch.max())))
