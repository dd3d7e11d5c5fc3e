"""Words: products in a finite group, parity and modular arithmetic, on paths, trees and DAGs.

The class of a node is the state of a machine that has read everything up to this node. Without a
way to permute states a model can only count or average, so it fails beyond the trained lengths:
"DeltaProduct" (arXiv 2502.10297) and "Structured Linear CDEs" (arXiv 2505.17761) compare linear
recurrent networks so on paths.

A word begins with a node of its own code (one more than those of its tokens) and without a class:
the state must start somewhere, and a linear recurrence starts at zero, which no permutation moves.
S_n has its permutations in lexicographic order, the identity first, and (a b)(i) = a(b(i)).
"""

from __future__ import annotations

from functools import cache
from itertools import permutations

import numpy as np
from torch_geometric.data import Data

from datasets.longrange_directed import (
    NONE,
    Range,
    before,
    path_graph,
    shuffled_graph,
    size_of,
)
from datasets.longrange_graphs import Rng

#: Modulus of the arithmetic; the digits are 0 to 4.
MODULUS = 5
OPERATORS = ("+", "-", "*")
#: One element of S_5 of each of its seven classes of conjugates: as tokens they generate S_5, and
#: as permutation matrices they are products of 0, 1, 2, 2, 3, 3 and 4 reflections.
S5_TOKENS = (
    (0, 1, 2, 3, 4),
    (1, 0, 2, 3, 4),
    (1, 0, 3, 2, 4),
    (1, 2, 0, 3, 4),
    (1, 2, 3, 0, 4),
    (1, 2, 0, 4, 3),
    (1, 2, 3, 4, 0),
)
#: A node of a tree hangs on one of so many nodes before it: trees are some 8 levels deep for 20.
TREE_WINDOW = 4
#: Each node of a DAG has up to FLAT_MOST predecessors among the FLAT_WINDOW nodes before it;
#: a share SOURCES of the nodes has none.
FLAT_WINDOW, FLAT_MOST, SOURCES = 4, 3, 0.1


@cache
def elements(degree: int) -> tuple[tuple[int, ...], ...]:
    """The permutations of S_n, n = ``degree``."""
    return tuple(permutations(range(degree)))


@cache
def product_table(degree: int) -> np.ndarray:
    """[n!, n!]: number of the product a b at (a, b)."""
    every = elements(degree)
    number = {element: i for i, element in enumerate(every)}
    rows = [[number[tuple(a[i] for i in b)] for b in every] for a in every]
    return np.array(rows)


@cache
def inverses(degree: int) -> np.ndarray:
    """[n!]: number of the inverse of each element."""
    return np.argmin(product_table(degree), 1)  # the identity is number 0


def parity_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Paths of bits; the class of a node is the parity of the bits up to it."""
    graphs = []
    for _ in range(count):
        bits = rng.integers(0, 2, size_of(rng, sizes))
        graphs.append(path_graph(bits, bits.cumsum() % 2))
    return graphs


def arithmetic_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Paths digit, operator, digit, ...: sums, differences and products modulo 5.

    An expression is evaluated from left to right, no operator goes before another one: it is a
    machine of five states. A digit's class is the value of the expression up to it; operators
    (codes 5, 6, 7 for +, -, *) have none. The number of nodes is odd: where an even one is drawn,
    it is one less, but never below the smallest size.
    """
    graphs = []
    for _ in range(count):
        nodes = size_of(rng, sizes)
        nodes -= 1 - nodes % 2
        nodes += 2 * (nodes < sizes[0])
        digits = rng.integers(0, MODULUS, nodes // 2 + 1)
        kinds = rng.integers(0, len(OPERATORS), nodes // 2)
        codes, classes = np.empty(nodes, int), np.full(nodes, NONE)
        codes[::2], codes[1::2] = digits, MODULUS + kinds
        classes[0] = value = digits[0]
        for i, (kind, digit) in enumerate(zip(kinds.tolist(), digits[1:].tolist()), 1):
            value = (value + digit, value - digit, value * digit)[kind] % MODULUS
            classes[2 * i] = value
        graphs.append(path_graph(codes, classes))
    return graphs


def word_graphs(rng: Rng, count: int, sizes: Range, degree: int) -> list[Data]:
    """Paths of elements of S_n; the class of a node is the product of all up to it, in order.

    Tokens are all 6 elements of S_3, and S5_TOKENS of S_5; ``sizes`` counts them.
    """
    table, tokens = product_table(degree), token_elements(degree)
    graphs = []
    for _ in range(count):
        codes = rng.integers(0, len(tokens), size_of(rng, sizes))
        product, classes = 0, [NONE]
        for element in tokens[codes].tolist():
            product = table[product, element]
            classes.append(product)
        graphs.append(path_graph(np.append(len(tokens), codes), classes))
    return graphs


@cache
def token_elements(degree: int) -> np.ndarray:
    """Numbers of the elements that are tokens of :func:`word_graphs`."""
    every = elements(degree)
    return np.array([every.index(token) for token in (S5_TOKENS if degree == 5 else every)])


def tree_word_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Rooted trees, edges away from the root, an element of S_3 at each node but the root, where
    the words start.

    The class of a node is the product of the elements from the root to it, in order.
    """
    table = product_table(3)
    graphs = []
    for _ in range(count):
        nodes = size_of(rng, sizes)
        codes = rng.integers(0, len(table), nodes)
        codes[0] = len(table)
        edges, products = [], [0]
        for node in range(1, nodes):
            (parent,) = before(rng, node, TREE_WINDOW, 1)
            edges.append((parent, node))
            products.append(int(table[products[parent], codes[node]]))
        graphs.append(shuffled_graph(rng, codes, edges, [NONE, *products[1:]]))
    return graphs


def flat_graphs(rng: Rng, count: int, sizes: Range, at_nodes: bool = False) -> list[Data]:
    """DAGs with a flat connection: elements g_e of S_3 on edges, whose products along all paths
    between two nodes agree.

    Each node n has an element phi(n), and g_e = phi(dst) phi(src)^-1. A source shows its element,
    code 1 + phi; all other nodes have code 0, and their class is phi(n) = g_e phi(src).

    Args:
        rng: source of all draws.
        count: number of graphs.
        sizes: nodes, those that stand for edges not counted.
        at_nodes: put g_e on a further node in the middle of the edge, with code 7 + g_e, for models
            whose states are changed by nodes alone; otherwise ``edge_attr`` has it.
    """
    table, inverse = product_table(3), inverses(3)
    graphs = []
    for _ in range(count):
        nodes = size_of(rng, sizes)
        phi = rng.integers(0, len(table), nodes)
        codes, classes = np.zeros(nodes, int), phi.copy()
        edges = []
        for node in range(nodes):
            if node == 0 or rng.random() < SOURCES:
                codes[node], classes[node] = 1 + phi[node], NONE
            else:
                edges += [(p, node) for p in before(rng, node, FLAT_WINDOW, FLAT_MOST)]
        src, dst = np.array(edges, int).reshape(-1, 2).T  # there may be none
        steps = table[phi[dst], inverse[phi[src]]]
        if not at_nodes:
            graphs.append(shuffled_graph(rng, codes, edges, classes, steps))
            continue
        middle = nodes + np.arange(len(edges))
        halves = np.concatenate([np.stack([src, middle], 1), np.stack([middle, dst], 1)])
        codes = np.concatenate([codes, 1 + len(table) + steps])
        classes = np.concatenate([classes, np.full(len(edges), NONE)])
        graphs.append(shuffled_graph(rng, codes, halves, classes))
    return graphs
