"""Trains without the garbage collector and reports memory and live line graphs, as JSON.

python -m tests.memory_worker graphs|sequences STEPS
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch
from torch_geometric.data import Batch, Data

from plstm_graph import PLSTM, LineGraph, PLSTMSequence, ToLineGraph
from plstm_graph.dag.family import Family


def resident() -> float:
    """Megabytes of resident memory, without what malloc keeps for later."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def live() -> list[int]:
    objects = gc.get_objects()
    kinds = list(map(type, objects))
    objects.clear()  # it would be part of a cycle
    return [kinds.count(kind) for kind in (LineGraph, Family)]


def molecule(rng: torch.Generator) -> Data:
    """A random tree of 10 to 40 nodes with a few rings."""
    n = int(torch.randint(10, 41, (), generator=rng))
    parent = (torch.rand(n - 1, generator=rng) * torch.arange(1, n)).long()
    parent = torch.maximum(parent, torch.arange(n - 1) - 3)
    pairs = torch.stack([parent, torch.arange(1, n)])
    ring = torch.randint(0, n - 5, (n // 8,), generator=rng)
    pairs = torch.cat([pairs, torch.stack([ring, ring + 5])], 1).unique(dim=1)
    columns = torch.cat([pairs, pairs.flip(0)], 1)
    x, edge_attr = (torch.randn(k, 8, generator=rng) for k in (n, columns.size(1)))
    return Data(x=x, edge_index=columns, edge_attr=edge_attr)


def graphs():
    rng, transform = torch.Generator().manual_seed(0), ToLineGraph()
    model = PLSTM(8, 32, 2, 1, edge_dim=8, readout="mean")
    while True:
        batch = Batch.from_data_list([transform(molecule(rng)) for _ in range(32)])
        line_graph = LineGraph.from_data(batch)
        args = batch.x, batch.edge_index, batch.edge_attr, batch.batch, line_graph
        yield model, model(*args, batch_size=32).square().mean()


def sequences():
    model = PLSTMSequence(16, 2, bidirectional=True)
    lengths = torch.randperm(300, generator=torch.Generator().manual_seed(0)) + 200
    while True:
        for length in lengths.tolist():
            yield model, model(torch.randn(1, length, 16)).square().mean()


def main(kind: str, steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    gc.collect()
    gc.disable()
    optimizer, memory, counts = None, [], []
    for step, (model, loss) in enumerate({"graphs": graphs, "sequences": sequences}[kind]()):
        optimizer = optimizer or torch.optim.Adam(model.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 10) == 0:
            memory.append(resident())
            counts.append(live())
        if step + 1 == steps:
            break
    print(json.dumps({"memory": memory, "live": counts}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
