"""What was loaded into a lazy layer before its first input stays."""

import pytest
import torch
from torch_geometric.utils import to_undirected

from plstm_graph import PLSTM, PLSTMConv

EDGES = to_undirected(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]))
MODULES = {
    "conv": lambda width, edge: PLSTMConv(width, 8, 2, edge_dim=edge, direction_offset=True),
    "conv all": lambda width, edge: PLSTMConv(
        width, 8, 2, edge_dim=edge, transition_node="all", init="grid"
    ),
    "model": lambda width, edge: PLSTM(width, 8, 2, 1, edge_dim=edge),
}
each = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


def run(module):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 6, generator=generator)
    return module(x, EDGES, torch.randn(8, 3, generator=generator))


@each
@pytest.mark.parametrize("part", ["weights", "biases", "output", "projection", "half", "all"])
def test_partial_state_dicts(make, part):
    full = make(6, 3).state_dict()
    names = {
        "weights": [name for name in full if name.endswith("weight")],
        "biases": [name for name in full if name.endswith("bias")],
        "output": [name for name in full if "lin_out" in name or "head" in name],
        "projection": [name for name in full if "lin_node" in name or "node_encoder" in name],
        "half": list(full)[::2],
        "all": list(full),
    }[part]
    loaded = {name: full[name].clone() for name in names}
    lazy = make(-1, -1)
    lazy.load_state_dict(loaded, strict=False)
    run(lazy)
    state = lazy.state_dict()
    assert {name: state[name].shape for name in full} == {k: v.shape for k, v in full.items()}
    for name, value in loaded.items():
        assert torch.equal(state[name], value), name
    assert all(value.isfinite().all() for value in state.values())
    if part == "weights" and make is MODULES["conv"]:  # the rest starts as it does anywhere
        rows = lazy.projection.lin_node.rows["transition"]
        assert lazy.projection.lin_node.bias[rows].tolist() == [0.5, 3.0]
    if part == "all":
        eager = make(6, 3)
        eager.load_state_dict(full)
        torch.testing.assert_close(run(lazy), run(eager))


@each
def test_nothing_loaded_starts_as_usual(make):
    torch.manual_seed(0)
    lazy = make(-1, -1)
    run(lazy)
    assert all(value.isfinite().all() for value in lazy.state_dict().values())
    widths = {name: value.shape for name, value in make(6, 3).state_dict().items()}
    assert {name: value.shape for name, value in lazy.state_dict().items()} == widths
