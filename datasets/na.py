"""Neural architectures as directed acyclic graphs, with the accuracy each of them reached.

19,020 architectures for CIFAR-10 from the search space of ENAS ("Efficient Neural Architecture
Search", arXiv 1802.03268), as published with D-VAE (arXiv 1904.11088), which also set the split.
Nothing is downloaded.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from datasets.base import GraphDataset, InputError, data_root

FILE = "final_structures6.txt"
#: The first architectures of the search, which all users of the file leave out.
BURN_IN = 1000
#: Kinds of nodes: input, output, and the six operations after them.
INPUT, OUTPUT, FIRST_OPERATION = 0, 1, 2
OPERATIONS = 6
KINDS = FIRST_OPERATION + OPERATIONS
TRAIN = 0.9
#: Of all architectures; taken from the end of the published training part.
VALID = 0.05


def load(root: str | Path | None = None) -> GraphDataset:
    """The architectures of ``root``/na/final_structures6.txt.

    The rows are shuffled with ``random.Random(0)``; the first 90 % are the published training
    part, whose last rows (5 % of all) serve for validation here; the rest is the test part. The
    target is the accuracy, standardised with mean and deviation of the rows that are trained on:
    its RMSE is in units of that deviation.

    Args:
        root: data root.

    Returns:
        Graphs with x one-hot [nodes, 8], ``edge_index`` in the direction of the computation, and
        ``accuracy`` [1] beside the target.

    Raises:
        InputError: if the file is missing or a line of it is malformed.
    """
    path = data_root(root) / "na" / FILE
    if not path.is_file():
        raise InputError(
            f"expected the neural architectures in {path}, got no such file; put {FILE} there (it "
            f"is published with D-VAE), or choose another data root"
        )
    graphs = read(path)
    if len(graphs) < 20:
        raise InputError(
            f"expected more than {BURN_IN} lines in {path} (the first {BURN_IN} are burn-in and "
            f"skipped), got {len(graphs)} after them; use the whole file"
        )
    split = published_split(len(graphs))
    accuracy = torch.cat([graph.accuracy for graph in graphs]).double()
    trained = accuracy[split["train"]]
    mean, std = trained.mean(), trained.std(correction=0)
    if std == 0:
        raise InputError(f"expected accuracies that differ in {path}, got {float(mean):g} only")
    for graph, y in zip(graphs, ((accuracy - mean) / std).float().split(1)):
        graph.y = y
    notes = [f"accuracy standardised: mean {float(mean):.5f}, standard deviation {float(std):.5f}"]
    return GraphDataset("na", "regression", graphs, split, notes)


def published_split(count: int) -> dict[str, Tensor]:
    """Rows of "train", "valid" and "test", see :func:`load`."""
    rows = list(range(count))
    random.Random(0).shuffle(rows)
    end = int(count * TRAIN)
    start = end - int(count * VALID)
    parts = {"train": rows[:start], "valid": rows[start:end], "test": rows[end:]}
    return {part: torch.tensor(chosen) for part, chosen in parts.items()}


def read(path: Path, burn_in: int = BURN_IN) -> list[Data]:
    """The graphs of a file, one ``[[operation, links...], ...], accuracy`` a line.

    Args:
        path: the file.
        burn_in: lines at the start that are not read.

    Raises:
        InputError: naming the first line that is malformed.
    """
    graphs = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if number <= burn_in or not line.strip():
            continue
        try:
            rows, accuracy = json.loads(f"[{line}]")
            graphs.append(to_graph(rows, accuracy))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"expected '[[operation, links...], ...], accuracy' in line {number} of {path}, "
                f"got {line[:80]!r} ({error}); repair or remove the line"
            ) from None
    return graphs


def to_graph(rows: list[list[int]], accuracy: float) -> Data:
    """One architecture.

    Row i (from 0) is node i + 1 and has i links, to nodes 0, ..., i - 1. Node i is linked to node
    i + 1 whatever they say, and node 0 is the input. So all nodes but the last one have a
    successor, no loose ends are left to be joined, and the output follows the last node alone.

    Args:
        rows: [operation, links...] of each node between input and output.
        accuracy: what the architecture reached.

    Raises:
        ValueError: if that is not what the rows look like.
    """
    edges = []
    for i, row in enumerate(rows):
        if len(row) != 1 + i or row[0] not in range(OPERATIONS) or set(row[1:]) - {0, 1}:
            raise ValueError(
                f"row {i} needs an operation from 0 to {OPERATIONS - 1} and {i} links of 0 or 1"
            )
        edges += [(j, i + 1) for j, link in enumerate(row[1:]) if link] + [(i, i + 1)]
    if not rows or not math.isfinite(accuracy):
        raise ValueError("at least one row and a finite accuracy are needed")
    edges.append((len(rows), len(rows) + 1))
    kinds = [INPUT, *(FIRST_OPERATION + row[0] for row in rows), OUTPUT]
    return Data(
        x=F.one_hot(torch.tensor(kinds), KINDS).float(),
        edge_index=torch.tensor(edges).t().contiguous(),
        accuracy=torch.tensor([accuracy], dtype=torch.float32),
    )
