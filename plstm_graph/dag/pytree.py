"""Line graphs as pytrees, so that they are arguments of exported programs.

The leaves are the tensors of the whole family: those of its members and of what
:func:`plstm_graph.ops.prepare` made. Sizes are leaves, too, tensors [size, 0] without elements:
``torch.export`` can then leave them open. What else is planned (strings and truth values) is part
of the structure, which is to be the same for all graphs that an exported program is called with;
plans that only serve to make others are left out.
"""

from __future__ import annotations

import ast
import weakref
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from plstm_graph.dag.family import Family, Kind, Member
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import unwrapped

#: Named tuples of tensors that are plans of their own, see :func:`register_tables`.
_TABLES: set[type] = set()
#: Plans that nothing asks for where the others are known.
_LEFT_OUT = ("num_levels", "num_line_edges", "multitree_mask")
_SIZE = "size of a pytree"


def register_tables(kind: type) -> type:
    """Let a NamedTuple of tensors, a plan of line graphs, be part of them as pytrees."""
    _TABLES.add(kind)
    name = f"{kind.__module__}.{kind.__qualname__}"
    pytree._register_namedtuple(kind, serialized_type_name=name)
    return kind


class Structure(tuple):
    """All that is no leaf, as Python literals: the kind of the graph, whether its original is
    pruned, the kinds of the members, which of the family's tensors there are, and the plans. It
    remembers the family that it was taken of, as long as that is there."""

    family: weakref.ref | None = None

    def __reduce__(self) -> tuple:
        return Structure, (tuple(self),)

    def __deepcopy__(self, memo: dict) -> Structure:
        return self


def _size(line_graph: LineGraph, name: Hashable, count: int) -> Tensor:
    """The same tensor each time: ``torch.export`` marks it as it marks all others."""
    return line_graph.plan((_SIZE, name), lambda _: torch.empty(count, 0))


def _tag(value: Any) -> str | tuple | None:
    """How a plan is written down: as part of the structure, as a size, as it is, or not at all."""
    if isinstance(value, (bool, str)) or value is None:
        return ("is", value)
    if isinstance(value, (int, torch.SymInt)):
        return "size"
    known = isinstance(value, (Tensor, LineGraph)) or type(value) in _TABLES
    if isinstance(value, list):
        known = all(isinstance(v, Tensor) for v in value)
    return "value" if known else None


def flatten(line_graph: LineGraph) -> tuple[list, Structure]:
    if "_tree" in line_graph.__dict__:
        return line_graph._tree
    family = line_graph.family
    original = LineGraph.of(family)
    members, known = family.snapshot()
    tensors = [family.node_batch, family.node_rank, *(t for m in members.values() for t in m)]
    there = tuple(tensor is not None for tensor in tensors)
    plans, values = [], []
    for key in sorted(known, key=repr):
        value, tag = known[key], _tag(known[key])
        if tag is None or key[1] in _LEFT_OUT or key[1][0] == _SIZE:
            continue
        plans.append((key, tag))
        if not isinstance(tag, tuple):
            values.append(_size(original, key, value) if tag == "size" else value)
    parts = line_graph.kind, family.is_multitree, tuple(members), there, tuple(plans)
    structure = Structure(parts)
    structure.family = weakref.ref(family)
    tensors = [tensor for tensor in tensors if tensor is not None]
    return [_size(original, "num_nodes", family.num_nodes), tensors, values], structure


def unflatten(children: Any, structure: Structure) -> LineGraph:
    kind, is_multitree, kinds, there, plans = structure
    if not torch.compiler.is_dynamo_compiling():
        if not all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(children)):
            # PyTorch also maps tensors to other things, such as their dynamic shapes.
            line_graph = LineGraph.__new__(LineGraph)
            line_graph._tree = list(children), structure
            return line_graph
        # Wrappers of torch.func.grad are in vain: a line graph has no gradients.
        children = pytree.tree_map_only(
            Tensor, lambda leaf: unwrapped("line_graph", leaf), list(children)
        )
        old = structure.family and structure.family()
        if old is not None and _same(children, flatten(LineGraph.of(old))[0]):
            return LineGraph.of(old, kind)
    nodes, tensors, values = children
    tensors, values = iter(tensors), iter(values)
    found = [next(tensors) if known else None for known in there]
    width = len(Member._fields)
    members = [Member(*found[i : i + width]) for i in range(2, len(found), width)]
    family = Family(nodes.size(0), members[0], *found[:2], is_multitree=is_multitree)
    family.members = dict(zip(kinds, members))
    family.plans[Kind.ORIGINAL, (_SIZE, "num_nodes")] = nodes
    for key, tag in plans:
        value = tag[1] if isinstance(tag, tuple) else next(values)
        if tag == "size":
            family.plans[Kind.ORIGINAL, (_SIZE, key)] = value
            value = value.size(0)
        family.plans[key] = value
    return LineGraph.of(family, kind)


def _same(children: list, others: list) -> bool:
    """Whether all leaves are the same objects."""
    leaves, more = pytree.tree_leaves(children), pytree.tree_leaves(others)
    return len(leaves) == len(more) and all(a is b for a, b in zip(leaves, more))


def _with_keys(line_graph: LineGraph) -> tuple[list, Structure]:
    children, structure = flatten(line_graph)
    names = ("num_nodes", "tensors", "plans")
    return [(pytree.GetAttrKey(n), child) for n, child in zip(names, children)], structure


pytree.register_pytree_node(
    LineGraph,
    flatten,
    unflatten,
    serialized_type_name="plstm_graph.LineGraph",
    to_dumpable_context=lambda structure: repr(tuple(structure)),
    from_dumpable_context=lambda text: Structure(ast.literal_eval(text)),
    flatten_with_keys_fn=_with_keys,
)
# Exported programs load with the line graphs that they were made with.
torch.serialization.add_safe_globals([LineGraph, Family, Member])
