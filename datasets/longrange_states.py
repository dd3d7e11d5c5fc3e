"""Programs on DAGs: variables that are written and read, and Boolean circuits."""

from __future__ import annotations

from functools import reduce
from operator import or_

from torch_geometric.data import Data

from datasets.longrange_directed import NONE, Range, before, shuffled_graph, size_of
from datasets.longrange_graphs import Rng

VARIABLES, VALUES = 8, 8
WRITE, READ = 0, 1
#: Nodes follow up to FLOW_MOST of FLOW_WINDOW nodes before them.
FLOW_WINDOW, FLOW_MOST = 3, 2
#: Share of reads among the nodes that can be one.
READS = 0.4
ZERO, ONE, NOT, AND, OR, XOR = range(6)
#: Predecessors of a gate come from so many nodes before it.
CIRCUIT_WINDOW = 8
#: Inputs: so many first nodes, and a share of the others.
FIRST_INPUTS, INPUTS = 3, 0.15
#: A circuit of N nodes is at most N // DEPTH_SHARE gates deep.
DEPTH_SHARE = 5


def dataflow_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Nodes write or read one of VARIABLES variables, control flows along edges, last write wins.

    A read's class is the value that the last write of its variable has put there. It is the same
    along every path that ends at the read, because reads are placed so: nodes are drawn in
    topological order, each with the set of writes of every variable that can reach it (the union
    over its predecessors; a write replaces the set, and "not written yet" counts as one), and only
    a variable whose set has one write and nothing else is read. Where there is none the node
    writes.

    Returns:
        ``x`` [N, 3]: WRITE or READ, the variable, and 1 + the value that is written, 0 for reads.
    """
    graphs = []
    for _ in range(count):
        nodes = size_of(rng, sizes)
        unwritten = 1 << nodes
        codes, classes, edges = [], [], []
        reaching: list[list[int]] = []  # by node and variable: bits of the writes after this node
        value_of: list[int] = []
        for node in range(nodes):
            previous = before(rng, node, FLOW_WINDOW, FLOW_MOST) if node else []
            edges += [(p, node) for p in previous]
            sets = [
                reduce(or_, (reaching[p][v] for p in previous)) if previous else unwritten
                for v in range(VARIABLES)
            ]
            known = [v for v, s in enumerate(sets) if s.bit_count() == 1 and s != unwritten]
            if known and rng.random() < READS:
                variable = known[rng.integers(len(known))]
                codes.append((READ, variable, 0))
                classes.append(value_of[sets[variable].bit_length() - 1])
                value_of.append(NONE)
            else:
                variable, value = int(rng.integers(VARIABLES)), int(rng.integers(VALUES))
                codes.append((WRITE, variable, 1 + value))
                classes.append(NONE)
                value_of.append(value)
                sets[variable] = 1 << node
            reaching.append(sets)
        graphs.append(shuffled_graph(rng, codes, edges, classes))
    return graphs


def circuit_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Boolean circuits: inputs of known value, and NOT, AND, OR and XOR gates, whose classes are
    their values.

    A gate reads one (NOT) or two nodes out of CIRCUIT_WINDOW before it, and is at most a fifth as
    deep as its graph has nodes; where no node is left to read, there is an input.
    """
    graphs = []
    for _ in range(count):
        nodes = size_of(rng, sizes)
        codes, values, depths, edges = [], [], [], []
        for node in range(nodes):
            near = [
                p
                for p in range(max(0, node - CIRCUIT_WINDOW), node)
                if depths[p] < max(2, nodes // DEPTH_SHARE)
            ]
            if node < FIRST_INPUTS or len(near) < 2 or rng.random() < INPUTS:
                codes.append(int(rng.integers(2)))
                values.append(codes[-1])
                depths.append(0)
                continue
            gate = int(rng.integers(NOT, XOR, endpoint=True))
            read = rng.permutation(near)[: 1 if gate == NOT else 2].tolist()
            edges += [(p, node) for p in read]
            a, b = values[read[0]], values[read[-1]]
            codes.append(gate)
            values.append({NOT: 1 - a, AND: a & b, OR: a | b, XOR: a ^ b}[gate])
            depths.append(1 + max(depths[p] for p in read))
        classes = [v if code >= NOT else NONE for v, code in zip(values, codes)]
        graphs.append(shuffled_graph(rng, codes, edges, classes))
    return graphs
