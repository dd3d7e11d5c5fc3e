"""Recall on paths: associative recall, selective copying and compression.

After "Mechanistic Design and Scaling of Hybrid Architectures" (MAD, arXiv 2403.17844) and "Zoology"
(arXiv 2312.04927), smaller, so that a run takes minutes on one core: MAD copies 16 tokens out of
256, compresses 32 and trains on 12,800 sequences for 200 epochs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from datasets.longrange_directed import NONE, Range, path_graph, size_of
from datasets.longrange_graphs import Rng

#: Keys and values of associative recall, which are different tokens.
KEYS, VALUES = 32, 16
#: Selective copying: kinds of tokens, and how many of them are copied out of how many places.
KINDS, COPIED, PLACES = 14, 8, 40
BLANK, COPY = 0, 1
#: Compression: kinds of tokens (as MAD has them), and their number.
LETTERS, LENGTH = 16, 16


def recall_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Multi-query associative recall: keys and their values in turns, then all keys again.

    The class of a key that is asked for is its value. Keys of a path differ, the queries are in
    random order.

    Args:
        rng: source of all draws.
        count: number of paths.
        sizes: pairs; a path has three nodes for each.
    """
    graphs = []
    for _ in range(count):
        pairs = size_of(rng, sizes)
        keys = rng.choice(KEYS, pairs, replace=False)
        values = rng.integers(0, VALUES, pairs)
        order = rng.permutation(pairs)
        stored = np.stack([keys, KEYS + values], 1).ravel()
        classes = np.concatenate([np.full(2 * pairs, NONE), values[order]])
        graphs.append(path_graph(np.concatenate([stored, keys[order]]), classes))
    return graphs


def copy_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Selective copying: COPIED tokens at random places between blanks, then as many nodes that
    ask for them in order. ``sizes``: places."""
    graphs = []
    for _ in range(count):
        places = size_of(rng, sizes)
        tokens = rng.integers(0, KINDS, COPIED)
        codes = np.full(places + COPIED, BLANK)
        codes[np.sort(rng.choice(places, COPIED, replace=False))] = COPY + 1 + tokens
        codes[places:] = COPY
        graphs.append(path_graph(codes, np.concatenate([np.full(places, NONE), tokens])))
    return graphs


def compression_graphs(rng: Rng, count: int, sizes: Range) -> list[Data]:
    """Compression: the last node of a path has to tell the token of every other one.

    The class of a node is its own token, but it is predicted from the embedding of the last node
    (``root_index``, of a code of its own) and the place of the token (``position``) alone.
    ``sizes``: tokens.
    """
    graphs = []
    for _ in range(count):
        tokens = rng.integers(0, LETTERS, size_of(rng, sizes))
        graph = path_graph(np.append(tokens, LETTERS), np.append(tokens, NONE))
        graph.root_index = torch.tensor([len(tokens)])
        graph.position = torch.arange(len(tokens) + 1)
        graphs.append(graph)
    return graphs
