"""Pictures of a DAG and of its line graph.

Drawing needs matplotlib: ``pip install 'plstm-graph[experiments]'``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from plstm_graph.checks import describe, instance, integer, real, refuse, text
from plstm_graph.dag.line_graph import LineGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Positions = Tensor | np.ndarray | Sequence[Sequence[float]] | Mapping[int, Sequence[float]]

#: Line edges that stay and line edges that a multitree leaves out.
KEPT, DROPPED = "#334155", "#94a3b8"


def draw_dag(
    line_graph: LineGraph,
    pos: Positions | None = None,
    ax: Axes | None = None,
    labels: Sequence[str] | Mapping[int, str] | None = None,
    *,
    node_color: Any = "white",
    edge_color: Any = None,
    cmap: str = "viridis",
    node_size: float = 16.0,
    width: float = 1.8,
) -> Axes:
    """Nodes and directed edges, coloured by topological level.

    Args:
        line_graph: the DAG, N nodes.
        pos: [N, 2] positions, or a mapping from nodes to them. Default: :func:`layout`.
        ax: matplotlib axes. Default: the current ones.
        labels: the text of each node; nodes that a mapping leaves out have none. Default: the
            numbers of the nodes.
        node_color: one colour, or one for each node.
        edge_color: one colour for all edges. Default: by level, from the first colour of
            ``cmap`` to its last.
        cmap: name of a matplotlib colour map.
        node_size: diameter in points.
        width: of the arrows, in points.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: on positions of the wrong shape.
    """
    _check(line_graph, cmap, node_size, width)
    patches, ax = _matplotlib("patches"), _axes(ax)
    pos = _positions(line_graph, pos)
    colors = [edge_color] * line_graph.num_edges
    if edge_color is None:
        colors = _level_colors(line_graph, cmap)
    bends = _bends(line_graph)
    for (u, v), color, bend in zip(line_graph.edge_index.t().tolist(), colors, bends):
        ax.add_patch(
            patches.FancyArrowPatch(
                pos[u],
                pos[v],
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=4 + 4 * width,
                shrinkA=node_size / 2,
                shrinkB=node_size / 2,
                color=color,
                linewidth=width,
                zorder=1,
            )
        )
    ax.scatter(*pos.T, s=node_size**2, c=node_color, edgecolors=KEPT, linewidths=1.0, zorder=2)
    if labels is None:
        labels = [str(node) for node in range(line_graph.num_nodes)]
    named = isinstance(labels, (Mapping, Sequence)) and not isinstance(labels, str)
    if not named or len(labels) > line_graph.num_nodes:
        n = line_graph.num_nodes
        refuse("labels", f"as texts of at most {n} nodes, in a list or mapping", describe(labels))
    items = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    for node, label in items:
        ax.annotate(label, pos[node], ha="center", va="center", fontsize=0.55 * node_size, zorder=3)
    return _finish(ax, pos)


def draw_line_graph(
    line_graph: LineGraph,
    pos: Positions | None = None,
    ax: Axes | None = None,
    *,
    pruned: LineGraph | None = None,
    cmap: str = "viridis",
    node_size: float = 7.0,
    width: float = 1.2,
) -> Axes:
    """A dot in the middle of each DAG edge, a curved arrow for each line edge.

    Line edges that the multitree (D-mode) leaves out are dashed and grey, so the picture shows
    both modes. The DAG lies underneath in light grey.

    Args:
        line_graph: the line graph, N nodes.
        pos: [N, 2] positions of the *nodes*, or a mapping from nodes to them. Default:
            :func:`layout`.
        ax: matplotlib axes. Default: the current ones.
        pruned: a graph with a part of the line edges, whose ``line_id`` tells which. Default:
            ``line_graph.multitree()``.
        cmap: colour map of the dots' levels.
        node_size: diameter of the dots in points.
        width: of the arrows, in points.

    Returns:
        The axes.

    Raises:
        ImportError: without matplotlib.
        ValueError: on positions of the wrong shape.
    """
    _check(line_graph, cmap, node_size, width)
    patches, ax = _matplotlib("patches"), _axes(ax)
    pos = _positions(line_graph, pos)
    pruned = line_graph.multitree() if pruned is None else pruned
    if pruned is not line_graph:
        _check_pruned(pruned, line_graph)
    kept = np.ones(line_graph.num_line_edges, dtype=bool)
    if pruned is not line_graph:
        kept[:] = False
        kept[pruned.line_id.cpu().numpy()] = True
    src, dst = line_graph.edge_index.cpu().numpy()
    bends = _bends(line_graph)
    for u, v, bend in zip(src, dst, bends):
        ax.add_patch(
            patches.FancyArrowPatch(
                pos[u],
                pos[v],
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-",
                shrinkA=0,
                shrinkB=0,
                color="#e5e7eb",
                linewidth=2 * width,
                zorder=0,
            )
        )
    delta = pos[dst] - pos[src]
    side = np.stack([delta[:, 1], -delta[:, 0]], axis=1)
    middle = (pos[src] + pos[dst]) / 2 + side * bends[:, None] / 2
    line_node = line_graph.line_node.tolist()
    for (a, b), node, keep in zip(line_graph.line_index.t().tolist(), line_node, kept):
        ax.add_patch(
            patches.FancyArrowPatch(
                middle[a],
                middle[b],
                connectionstyle=f"arc3,rad={_towards(middle[a], middle[b], pos[node])}",
                arrowstyle="-|>",
                mutation_scale=4 + 4 * width,
                shrinkA=node_size / 2,
                shrinkB=node_size / 2,
                color=KEPT if keep else DROPPED,
                linestyle="-" if keep else (0, (3, 2)),
                linewidth=width,
                zorder=2 if keep else 1,
            )
        )
    ax.scatter(*middle.T, s=node_size**2, c=_level_colors(line_graph, cmap), linewidths=0, zorder=3)
    return _finish(ax, pos)


def layout(line_graph: LineGraph, seed: int = 0) -> np.ndarray:
    """[N, 2] positions of the nodes by networkx' spring layout, the same for the same graph."""
    import networkx as nx

    _check_graph("line_graph", line_graph)
    integer("seed", seed, 0)
    g = nx.Graph(line_graph.to_networkx())
    found = nx.spring_layout(g, seed=seed)
    return np.array([found[node] for node in range(line_graph.num_nodes)]).reshape(-1, 2)


def _matplotlib(module: str) -> Any:
    try:
        import importlib

        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise ImportError(
            f"drawing needs matplotlib ({error}); install it with "
            f"pip install 'plstm-graph[experiments]'"
        ) from error


def _check_graph(name: str, line_graph: Any) -> None:
    remedy = "build one with LineGraph.from_edge_index or LineGraph.from_data"
    instance(name, line_graph, LineGraph, "a LineGraph", remedy)


def _check(line_graph: Any, cmap: Any, node_size: Any, width: Any) -> None:
    _check_graph("line_graph", line_graph)
    text("cmap", cmap)
    real("node_size", node_size, 0.0)
    real("width", width, 0.0)


def _check_pruned(pruned: Any, line_graph: LineGraph) -> None:
    _check_graph("pruned", pruned)
    line_id = pruned.line_id
    last = -1 if line_id is None or not line_id.numel() else int(line_id.max())
    if line_id is None or pruned.num_edges != line_graph.num_edges:
        refuse("pruned", "as a multitree of line_graph", repr(pruned))
    if last >= line_graph.num_line_edges:
        refuse("pruned", f"of {line_graph.num_line_edges} line edges", f"line_id {last}")


def _axes(ax: Axes | None) -> Axes:
    if ax is not None and not hasattr(ax, "add_patch"):
        refuse("ax", "as matplotlib axes", describe(ax), "make them with plt.subplots()")
    return _matplotlib("pyplot").gca() if ax is None else ax


def _finish(ax: Axes, pos: np.ndarray) -> Axes:
    if pos.size:
        ax.update_datalim(pos)
        ax.margins(0.12)
        ax.autoscale_view()
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def _positions(line_graph: LineGraph, pos: Positions | None) -> np.ndarray:
    n = line_graph.num_nodes
    if pos is None:
        return layout(line_graph)
    if isinstance(pos, Mapping):
        missing = [node for node in range(n) if node not in pos]
        if missing:
            raise ValueError(f"expected pos of all {n} nodes, got none for node {missing[0]}")
        pos = [pos[node] for node in range(n)]
    if isinstance(pos, Tensor):
        if pos.layout != torch.strided or pos.is_meta or pos.is_complex():
            refuse("pos", f"as a dense tensor [{n}, 2]", describe(pos))
        pos = pos.detach().cpu().double().numpy()
    try:
        pos = np.asarray(pos, dtype=float)
    except (TypeError, ValueError) as error:
        refuse("pos", f"as [{n}, 2] numbers", type(pos).__name__, str(error))
    if pos.shape != (n, 2) and not (n == 0 and pos.size == 0):
        raise ValueError(
            f"expected pos of shape [{n}, 2] (one row per node), got {list(pos.shape)}"
        )
    return pos.reshape(n, 2)


def _level_colors(line_graph: LineGraph, cmap: str) -> list:
    """[E] a colour for the level of each edge."""
    depth = max(line_graph.num_levels - 1, 1)
    # The bright end of most maps is hard to see on white.
    share = 0.92 * line_graph.level.cpu().numpy() / depth
    try:
        colors = _matplotlib("pyplot").get_cmap(cmap)
    except ValueError as error:
        refuse("cmap", "as the name of a matplotlib colour map", repr(cmap), str(error))
    return list(colors(share))


def _bends(line_graph: LineGraph) -> np.ndarray:
    """[E] curvature of each edge: 0 for a single one. Parallel edges are fanned out; in a two-way
    graph the directions of an edge lie on its two sides."""
    src, dst = line_graph.edge_index.cpu().numpy()
    size = max(line_graph.num_nodes, 1)
    pair = src * size + dst
    _, group, count = np.unique(pair, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    place = np.empty(pair.size, dtype=np.int64)
    place[order] = np.arange(pair.size) - np.repeat(np.cumsum(count) - count, count)
    # Curvature is seen along the edge, so equal ones bend the two directions apart.
    both_ways = np.isin(pair, dst * size + src)
    return np.where(both_ways, 0.25 * (place + 0.5), 0.25 * (2 * place - count[group] + 1))


def _towards(start: np.ndarray, end: np.ndarray, corner: np.ndarray) -> float:
    """Curvature that bends an arrow towards ``corner``, and never a straight line."""
    delta = end - start
    side = np.array([delta[1], -delta[0]])
    squared = float(delta @ delta)
    bend = float((corner - (start + end) / 2) @ side) / squared if squared else 0.0
    return float(np.clip(0.75 * bend, -0.6, 0.6)) if abs(bend) > 0.1 else 0.3
