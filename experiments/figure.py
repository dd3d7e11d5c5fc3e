"""The overview figure of the README: a molecule, its DAG, its line graph, and what an atom sees.

python -m experiments.figure --out docs/overview.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps, pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rdkit import Chem
from rdkit.Chem import AllChem

from plstm_graph import LineGraph
from plstm_graph.molecules import from_mol
from plstm_graph.nn.gates import normalize_transition
from plstm_graph.ops import gating_matrix
from plstm_graph.viz import DROPPED, KEPT, draw_dag, draw_line_graph

CAFFEINE = "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"
ATOM_COLORS = {"C": "#f1f5f9", "N": "#bfdbfe", "O": "#fecaca"}
ONE_HOP = "#ea580c"
SIZE = 18  # of an atom, in points


def coordinates(mol: Chem.Mol) -> np.ndarray:
    """[N, 2] the depiction of a molecule, its longest axis horizontal."""
    AllChem.Compute2DCoords(mol)
    pos = mol.GetConformer().GetPositions()[:, :2]
    pos = pos - pos.mean(0)
    axes = np.linalg.svd(pos, full_matrices=False)[2]
    return pos @ axes.T


def receptive_field(graph: LineGraph) -> np.ndarray:
    """[N, N] gating matrix of a P-mode layer whose gates are all equal."""
    e, l, n = graph.num_edges, graph.num_line_edges, graph.num_nodes
    transition = normalize_transition(torch.ones(l, 1), graph.line_index[0], e)
    one = torch.ones(e, 1)
    return gating_matrix(one, transition, one, torch.ones(n, 1), graph)[0].numpy()


def draw_bonds(mol: Chem.Mol, pos: np.ndarray, ax: Axes, color: str = KEPT) -> None:
    for bond in mol.GetBonds():
        ends = pos[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
        across = np.array([ends[0, 1] - ends[1, 1], ends[1, 0] - ends[0, 0]])
        across = 0.09 * across / np.linalg.norm(across)
        double = bond.GetBondType() == Chem.BondType.DOUBLE
        for shift in (across, -across) if double else (0 * across,):
            ax.plot(*(ends + shift).T, color=color, linewidth=1.8, zorder=0)


def draw_atoms(
    pos: np.ndarray,
    ax: Axes,
    symbols: list[str],
    face: np.ndarray | None = None,
    ring: set[int] | frozenset[int] = frozenset(),
) -> None:
    """Atoms by element, or with the colours ``face`` [N, 4]; those of ``ring`` are circled."""
    if face is None:
        face = np.array([to_rgba(ATOM_COLORS.get(s, "white")) for s in symbols])
    circled = [atom in ring for atom in range(len(symbols))]
    ax.scatter(
        *pos.T,
        s=SIZE**2,
        c=face,
        edgecolors=[ONE_HOP if c else KEPT for c in circled],
        linewidths=[3.0 if c else 1.0 for c in circled],
        zorder=2,
    )
    for xy, text, color in zip(pos, symbols, face):
        ink = "white" if color[:3].mean() < 0.6 else "black"
        ax.annotate(text, xy, ha="center", va="center", fontsize=9.5, color=ink, zorder=3)


def legend(ax: Axes, handles: list) -> None:
    """One row below the panel."""
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.03), ncol=len(handles),
        frameon=False, fontsize=10, handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip


def dot(label: str, **style: object) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", markersize=9, label=label, **style)


def draw_field(graph: LineGraph, mol: Chem.Mol, pos: np.ndarray, ax: Axes) -> None:
    """The row of the gating matrix of the atom that sees most, as colour on the atoms."""
    field = receptive_field(graph)
    target = int((field > 0).sum(1).argmax())
    weight = field[target]
    shade = np.where(weight > 0, 0.2 + 0.7 * np.sqrt(weight / weight.max()), 0.0)
    face = np.where(weight[:, None] > 0, colormaps["Purples"](shade), 1.0)
    hop = {target}
    for u, v in graph.edge_index.t().tolist():
        hop |= {u, v} if target in (u, v) else set()
    draw_bonds(mol, pos, ax, "#cbd5e1")
    draw_atoms(pos, ax, [a.GetSymbol() for a in mol.GetAtoms()], face, hop)
    down = -1 if pos[target, 1] < pos[:, 1].mean() else 1
    ax.annotate(
        "this atom",
        pos[target],
        pos[target] + (0, 1.25 * down),
        ha="center",
        va="center",
        fontsize=10,
        arrowprops={"arrowstyle": "->", "color": KEPT, "shrinkB": SIZE * 0.65},
        zorder=3,
    )
    legend(
        ax,
        [
            dot(f"pLSTM: {int((weight > 0).sum())} atoms", color=colormaps["Purples"](0.75)),
            dot(
                f"message passing: {len(hop)} atoms",
                markerfacecolor="white",
                markeredgecolor=ONE_HOP,
                markeredgewidth=2.5,
            ),
        ],
    )


def overview(smiles: str = CAFFEINE) -> Figure:
    """The four panels."""
    mol = Chem.MolFromSmiles(smiles)
    data = from_mol(mol)
    Chem.Kekulize(mol)
    pos = coordinates(mol)
    graph = LineGraph.from_edge_index(data.edge_index, data.num_nodes, "bfs")
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.9), facecolor="white")
    molecule, dag, line, field = axes.flat
    draw_bonds(mol, pos, molecule)
    draw_atoms(pos, molecule, symbols)
    colors = [ATOM_COLORS.get(s, "white") for s in symbols]
    draw_dag(graph, pos, dag, symbols, node_color=colors, node_size=SIZE)
    draw_line_graph(graph, pos, line)
    draw_field(graph, mol, pos, field)

    steps = np.linspace(0, 0.92, graph.num_levels)
    name = Line2D([], [], linestyle="", label="level")
    legend(dag, [name, *(dot(str(i), color=colormaps["viridis"](c)) for i, c in enumerate(steps))])
    dropped = graph.num_line_edges - graph.multitree().num_line_edges
    legend(
        line,
        [
            Line2D([], [], color=KEPT, label="P-mode and D-mode"),
            Line2D([], [], color=DROPPED, linestyle=(0, (3, 2)), label=f"P-mode only ({dropped})"),
        ],
    )
    titles = (
        "A molecule",
        f"1. Its DAG: {graph.num_edges} edges carry states",
        f"2. Its line graph: {graph.num_line_edges} steps from edge to edge",
        "3. What one atom sees in one layer",
    )
    for ax, title in zip(axes.flat, titles):
        ax.set_title(title, fontsize=13, color="black")
        ax.set_aspect("equal")
        ax.axis("off")
        ax.set_xlim(pos[:, 0].min() - 0.8, pos[:, 0].max() + 0.8)
        ax.set_ylim(pos[:, 1].min() - 0.9, pos[:, 1].max() + 0.6)
    figure.tight_layout(w_pad=0, h_pad=2.5)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/overview.png"))
    parser.add_argument("--smiles", default=CAFFEINE, help="default: caffeine")
    arguments = parser.parse_args()
    pyplot.switch_backend("Agg")
    figure = overview(arguments.smiles)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=160, pil_kwargs={"optimize": True})
    print(f"{arguments.out}: {arguments.out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
