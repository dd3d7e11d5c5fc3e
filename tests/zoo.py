"""The graph zoo: small line graphs of every kind, shared by all tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from rdkit import Chem

from plstm_graph import LineGraph
from plstm_graph.dag.levels import line_index_of

SMILES = (
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",  # caffeine: fused rings
    "C1CC2CCC1C2",  # norbornane: a bridge
    "CC(=O)Oc1ccccc1C(=O)O.[Na]",  # aspirin and a lone atom
    "C12C3C4C1C5C2C3C45",  # cubane: many paths meet
)


def from_edges(edges: list[tuple[int, int]], num_nodes: int) -> LineGraph:
    """The full line graph of a DAG given as (src, dst) pairs."""
    edge_index = np.array(edges, dtype=np.int64).reshape(-1, 2).T.copy()
    line_index = line_index_of(edge_index, num_nodes)
    return LineGraph(num_nodes, torch.from_numpy(edge_index), torch.from_numpy(line_index))


def path(length: int) -> LineGraph:
    return from_edges([(i, i + 1) for i in range(length)], length + 1)


def grid(x: int, y: int) -> LineGraph:
    right = [(i * y + j, (i + 1) * y + j) for i in range(x - 1) for j in range(y)]
    down = [(i * y + j, i * y + j + 1) for i in range(x) for j in range(y - 1)]
    return from_edges(right + down, x * y)


def binary_tree(depth: int, *, inward: bool = False) -> LineGraph:
    edges = [((i - 1) // 2, i) for i in range(1, 2**depth - 1)]
    if inward:
        edges = [(v, u) for u, v in edges]
    return from_edges(edges, 2**depth - 1)


def molecule(smiles: str) -> LineGraph:
    mol = Chem.MolFromSmiles(smiles)
    bonds = [sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in mol.GetBonds()]
    return from_edges([tuple(b) for b in bonds], mol.GetNumAtoms())


def random_dag(num_nodes: int, num_edges: int, seed: int) -> LineGraph:
    """Any DAG: random pairs u < v with repeats, under a random numbering, in random order."""
    rng = np.random.default_rng(seed)
    if num_nodes < 2:
        return from_edges([], num_nodes)
    pairs = np.sort(
        np.stack([rng.integers(0, num_nodes, num_edges), rng.integers(0, num_nodes, num_edges)]), 0
    )
    pairs = pairs[:, pairs[0] != pairs[1]]
    name = rng.permutation(num_nodes)
    return from_edges([tuple(e) for e in name[pairs].T.tolist()], num_nodes)


def disjoint(graphs: list[LineGraph], *, batch: bool) -> LineGraph:
    """The disjoint union, with ``node_batch`` if ``batch``."""
    edges, lines, nodes, offset, edge_offset = [], [], [], 0, 0
    for i, g in enumerate(graphs):
        edges.append(g.edge_index + offset)
        lines.append(g.line_index + edge_offset)
        nodes.append(torch.full((g.num_nodes,), i))
        offset, edge_offset = offset + g.num_nodes, edge_offset + g.num_edges
    node_batch = torch.cat(nodes) if batch else None
    return LineGraph(offset, torch.cat(edges, 1), torch.cat(lines, 1), node_batch=node_batch)


ZOO: dict[str, Callable[[], LineGraph]] = {
    "empty": lambda: from_edges([], 0),
    "one_node": lambda: from_edges([], 1),
    "no_edges": lambda: from_edges([], 5),
    "one_edge": lambda: from_edges([(1, 0)], 2),
    "no_line_edges": lambda: from_edges([(0, 1), (0, 2), (3, 2)], 5),
    "path": lambda: path(9),
    "star_out": lambda: from_edges([(0, i) for i in range(1, 8)], 8),
    "hub": lambda: from_edges([(i, 9) for i in range(9)] + [(9, i) for i in range(10, 13)], 13),
    "fork": lambda: from_edges([(0, 1), (1, 2), (1, 3), (3, 4)], 5),
    "join": lambda: from_edges([(0, 2), (1, 2), (2, 3)], 4),
    "diamond": lambda: from_edges([(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)], 5),
    "multi_edge": lambda: from_edges([(0, 1), (0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], 4),
    "grid": lambda: grid(4, 5),
    "tree": lambda: binary_tree(5),
    "tree_inward": lambda: binary_tree(5, inward=True),
    "molecules": lambda: disjoint([molecule(s) for s in SMILES], batch=True),
    "random_sparse": lambda: random_dag(20, 24, 0),
    "random_dense": lambda: random_dag(12, 50, 1),
    "batch_with_gaps": lambda: _batch_with_gaps(),
    "pruned": lambda: grid(4, 4).multitree(),
    "reversed": lambda: random_dag(15, 30, 2).reverse(),
    "two_way_path": lambda: path(5).two_way(),
    "two_way_tree": lambda: binary_tree(4).two_way(),
    "two_way_tree_inward": lambda: binary_tree(4, inward=True).two_way(),
    "two_way_star": lambda: ZOO["star_out"]().two_way(),
    "two_way_multi_edge": lambda: ZOO["multi_edge"]().two_way(),
    "two_way_grid": lambda: grid(3, 4).two_way(),
    "two_way_molecules": lambda: ZOO["molecules"]().two_way(),
    "two_way_random": lambda: random_dag(10, 18, 3).two_way(),
    "two_way_pruned": lambda: grid(4, 4).two_way().multitree(),
    "two_way_reversed": lambda: random_dag(9, 16, 4).two_way().reverse(),
    "reversed_two_way": lambda: random_dag(9, 16, 5).reverse().two_way(),
    "two_way_in_part": lambda: _two_way_in_part(),
    "everything": lambda: _everything(batch=True),
    "everything_no_batch": lambda: _everything(batch=False),
}


def _two_way_in_part() -> LineGraph:
    """A ring and a directed diamond in one batch: two ways in the ring alone."""
    ring = torch.tensor([[0, 1, 2, 3, 4, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 0, 1, 2, 3, 4]])
    diamond = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
    batch = torch.tensor([0] * 5 + [1] * 4)
    edge_index = torch.cat([ring, diamond + 5], 1)
    g = LineGraph.from_edge_index(edge_index, 9, "index", batch)
    return g.two_way_where_undirected()


def _batch_with_gaps() -> LineGraph:
    """Graphs numbered with gaps, their nodes interleaved."""
    g = disjoint([path(3), grid(2, 2), from_edges([], 1)], batch=True)
    node = torch.tensor([4, 0, 6, 2, 8, 1, 5, 3, 7])
    batch = torch.empty_like(node).scatter_(0, node, torch.tensor([7, 0, 1000])[g.node_batch])
    return LineGraph(g.num_nodes, node[g.edge_index], g.line_index, node_batch=batch)


def _everything(*, batch: bool) -> LineGraph:
    names = [name for name in ZOO if not name.startswith("everything")]
    return disjoint([ZOO[name]() for name in names], batch=batch)


def inputs(
    line_graph: LineGraph,
    heads: int = 2,
    key_size: int = 3,
    value_size: int = 4,
    *,
    states: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[torch.Tensor, ...]:
    """Random query, key, value, source, transition, mark and direct that require gradients."""
    n, e, l = line_graph.num_nodes, line_graph.num_edges, line_graph.num_line_edges
    rng = torch.Generator().manual_seed(seed)
    j = () if states is None else (states,)
    shapes = [(n, heads, key_size)] * 2 + [(n, heads, value_size), (e, heads, *j)]
    shapes += [(l, heads, *j, *j), (e, heads, *j), (n, heads)]
    scales = (1, 1, 1, 1, 0.4, 1, 1)
    return tuple(
        (torch.randn(s, generator=rng, dtype=torch.float64) * c).to(dtype).requires_grad_()
        for s, c in zip(shapes, scales)
    )
