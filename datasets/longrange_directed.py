"""What the generated sets of directed graphs share: graphs with codes and classes at their nodes.

All of them are acyclic. ``x`` [N, F] has integers as floats, as the trees of keys and values have;
``class_y`` [N] has the class of each node, -1 where nothing is to be predicted; where edges tell
something, ``edge_attr`` [M, 1] has integers as floats, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch_geometric.data import Data

from datasets.longrange_graphs import Rng, path

#: Class of nodes where nothing is to be predicted.
NONE = -1
#: Smallest and largest size of a graph, both included.
Range = tuple[int, int]


def directed_graph(
    codes: Sequence,
    edges: Sequence,
    classes: Sequence[int],
    edge_codes: Sequence[int] | None = None,
) -> Data:
    """A graph as models read it.

    Args:
        codes: [N] or [N, F] integers of the nodes.
        edges: [M, 2], from and to.
        classes: [N], NONE where nothing is to be predicted.
        edge_codes: [M] integers of the edges.
    """
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    data = Data(
        x=torch.from_numpy(np.asarray(codes, np.float32).reshape(len(classes), -1)),
        edge_index=torch.from_numpy(edges.T.copy()),
        class_y=torch.from_numpy(np.asarray(classes, np.int64)),
    )
    if edge_codes is not None:
        data.edge_attr = torch.from_numpy(np.asarray(edge_codes, np.float32).reshape(-1, 1))
    return data


def path_graph(codes: Sequence, classes: Sequence[int]) -> Data:
    """A sequence: each node is a token, with an edge to the next one."""
    return directed_graph(codes, path(len(classes)), classes)


def shuffled_graph(
    rng: Rng,
    codes: Sequence,
    edges: Sequence,
    classes: Sequence[int],
    edge_codes: Sequence[int] | None = None,
) -> Data:
    """As :func:`directed_graph`, with nodes and edges in random order: numbers tell nothing."""
    edges = np.asarray(edges, np.int64).reshape(-1, 2)
    order, columns = rng.permutation(len(classes)), rng.permutation(len(edges))
    place = np.argsort(order)
    return directed_graph(
        np.asarray(codes)[order],
        place[edges[columns]],
        np.asarray(classes)[order],
        None if edge_codes is None else np.asarray(edge_codes)[columns],
    )


def size_of(rng: Rng, sizes: Range) -> int:
    """A size in a range, uniform."""
    return int(rng.integers(*sizes, endpoint=True))


def before(rng: Rng, node: int, window: int, most: int) -> list[int]:
    """Predecessors of a node: 1 to ``most`` of the ``window`` nodes before it, without repeats."""
    near = min(node, window)
    count = min(near, int(rng.integers(1, most, endpoint=True)))
    return (node - 1 - rng.permutation(near)[:count]).tolist()
