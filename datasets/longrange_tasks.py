"""The generated sets of directed graphs by name: how they are drawn, and in which sizes.

Sets of words, programs and circuits are trained and validated on small graphs, and tested on
graphs of up to twice the size; words on paths have a further part "long", up to three times longer
still. The sets of recall are tested in the sizes that they are trained on, as published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch_geometric.data import Data

from datasets.longrange_directed import Range
from datasets.longrange_graphs import Rng
from datasets.longrange_recall import (
    KEYS,
    KINDS,
    LENGTH,
    LETTERS,
    PLACES,
    VALUES,
    compression_graphs,
    copy_graphs,
    recall_graphs,
)
from datasets.longrange_states import VALUES as WRITTEN
from datasets.longrange_states import VARIABLES, XOR, circuit_graphs, dataflow_graphs
from datasets.longrange_words import (
    MODULUS,
    OPERATORS,
    arithmetic_graphs,
    elements,
    flat_graphs,
    parity_graphs,
    token_elements,
    tree_word_graphs,
    word_graphs,
)

#: Graphs for training, validation and test; the part "long" has a fifth of those for test.
COUNTS = (8000, 400, 400)
LONG_SHARE = 5


@dataclass(frozen=True)
class Task:
    """A set of graphs with a class at some nodes.

    Args:
        draw: from a generator, a number of graphs and a range of sizes to graphs.
        classes: number of classes.
        codes: values of ``x`` are integers below.
        train: smallest and largest size of the graphs for training and validation.
        test: of those for test.
        long: of those of a further part "long"; None for none.
        edge_codes: values of ``edge_attr`` are integers below; 0 where there is none.
        positions: classes are predicted from the embedding of the graph's ``root_index`` and a
            place below this number, ``position``; 0 where each node predicts its own class.
    """

    draw: Callable[[Rng, int, Range], list[Data]]
    classes: int
    codes: int
    train: Range
    test: Range
    long: Range | None = None
    edge_codes: int = 0
    positions: int = 0


#: Sizes of words on paths, those of published formal languages (arXiv 2405.04517) in three parts.
WORDS = {"train": (3, 40), "test": (41, 80), "long": (81, 256)}
S3, S5 = len(elements(3)), len(elements(5))

TASKS = {
    "parity": Task(parity_graphs, 2, 2, **WORDS),
    "mod_arith": Task(arithmetic_graphs, MODULUS, MODULUS + len(OPERATORS), **WORDS),
    "words_s3": Task(partial(word_graphs, degree=3), S3, 1 + S3, **WORDS),
    "words_s5": Task(partial(word_graphs, degree=5), S5, 1 + len(token_elements(5)), **WORDS),
    "words_s3_tree": Task(tree_word_graphs, S3, 1 + S3, (3, 20), (21, 40)),
    "words_s3_flat": Task(flat_graphs, S3, 1 + S3, (4, 20), (21, 40), edge_codes=S3),
    "words_s3_flat_nodes": Task(
        partial(flat_graphs, at_nodes=True), S3, 1 + 2 * S3, (4, 20), (21, 40)
    ),
    "recall": Task(recall_graphs, VALUES, KEYS + VALUES, (4, 16), (16, 16)),
    "selective_copy": Task(copy_graphs, KINDS, 2 + KINDS, (PLACES, PLACES), (PLACES, PLACES)),
    "compression": Task(
        compression_graphs, LETTERS, LETTERS + 1, (LENGTH, LENGTH), (LENGTH, LENGTH),
        positions=LENGTH + 1,
    ),
    "dataflow": Task(dataflow_graphs, WRITTEN, max(VARIABLES, 1 + WRITTEN), (8, 40), (41, 80)),
    "circuits": Task(circuit_graphs, 2, 1 + XOR, (8, 40), (41, 80)),
}  # fmt: skip


def draw_task(
    name: str, counts: tuple[int, int, int] | None, seed: int
) -> tuple[Task, dict[str, list[Data]]]:
    """A task and its parts, each from its own seed.

    Args:
        name: one of TASKS.
        counts: numbers of training, validation and test graphs. Default: COUNTS.
        seed: of the draw.
    """
    task = TASKS[name]
    train, valid, test = counts or COUNTS
    wanted = {"train": (train, task.train), "valid": (valid, task.train), "test": (test, task.test)}
    if task.long is not None:
        wanted["long"] = (-(-test // LONG_SHARE), task.long)
    parts = {
        part: task.draw(np.random.default_rng((seed, number)), count, sizes)
        for number, (part, (count, sizes)) in enumerate(wanted.items())
    }
    return task, parts
