"""Explanation: the mask of an edge scales its state, once."""

import itertools

import pytest
import torch
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks

from plstm_graph import LineGraph
from plstm_graph.nn import PLSTM, PLSTMConv
from plstm_graph.ops import dag_scan
from tests.nn.conftest import edges_of, output


@pytest.fixture(
    params=list(itertools.product("PD", ["forward", "two_way"])), ids=lambda param: "-".join(param)
)
def case(request):
    """A layer on a symmetric graph: columns 0 to 7 are not in the DAG, 8 to 15 are."""
    mode, direction = request.param
    _, edges = edges_of("shuffled")
    edge_index = torch.cat([edges.flip(0), edges], 1)
    graph = LineGraph.from_edge_index(edge_index, 7, torch.tensor([0, 4, 1, 2, 5, 3, 6]))
    assert torch.equal(graph.edge_id, torch.arange(8) + 8)
    conv = PLSTMConv(5, 6, 2, mode=mode, direction=direction, edge_dim=3).double()
    args = {
        "x": torch.randn(7, 5, dtype=torch.double),
        "edge_attr": torch.randn(16, 3, dtype=torch.double),
        "edge_index": edge_index,
        "line_graph": graph,
    }
    return conv, args


def masked(conv, args, mask, apply_sigmoid=False):
    set_masks(conv, mask, args["edge_index"], apply_sigmoid)
    out = conv(**args)
    clear_masks(conv)
    return out


def scaled_states(conv, args, mask):
    """The layer with C_e = m_e (sum T C + S k v^T), one edge after the other."""
    _, gates = conv(**args, return_gates=True)
    graph, proj, x = gates.line_graph, conv.projection, args["x"]
    q, k, v = (p.view(7, 2, 3) for p in proj.lin_node(x).split(proj.split, -1)[:3])
    mask = mask[graph.edge_id]
    src, dst = graph.edge_index
    h = gates.direct[..., None] * (q * k).sum(-1, keepdim=True) * v
    state = torch.zeros(graph.num_edges, 2, 3, 3, dtype=x.dtype)
    for e in torch.argsort(graph.level).tolist():
        state[e] = gates.source[e][:, None, None] * k[src[e]][:, :, None] * v[src[e]][:, None, :]
        for l in (graph.line_index[1] == e).nonzero().view(-1).tolist():
            state[e] += gates.transition[l][:, None, None] * state[graph.line_index[0, l]]
        state[e] *= mask[e]
        read = torch.einsum("hk,hkv->hv", q[dst[e]], state[e])
        h[dst[e]] = h[dst[e]] + gates.mark[e][:, None] * read
    return output(conv, h)


def test_mask_of_ones_changes_nothing(case):
    conv, args = case
    out = conv(**args)
    torch.testing.assert_close(masked(conv, args, torch.ones(16).double()), out)
    large = torch.full((16,), 100.0).double()
    torch.testing.assert_close(masked(conv, args, large, apply_sigmoid=True), out)
    torch.testing.assert_close(conv(**args), out)  # and nothing is left behind


def test_mask_of_zeros_leaves_direct(case):
    conv, args = case
    empty = torch.empty(2, 0, dtype=torch.long)
    graph = LineGraph(7, empty, empty)
    alone = conv(args["x"], empty, args["edge_attr"][:0], line_graph=graph)
    torch.testing.assert_close(masked(conv, args, torch.zeros(16).double()), alone)


def test_mask_scales_each_state_once(case):
    conv, args = case
    with torch.no_grad():
        mask = torch.rand(16).double()
        torch.testing.assert_close(masked(conv, args, mask), scaled_states(conv, args, mask))
        for column in range(16):
            mask = torch.ones(16).double()
            mask[column] = 0
            out = masked(conv, args, mask)
            torch.testing.assert_close(out, scaled_states(conv, args, mask))
            read = conv.direction == "two_way" or column >= 8
            assert torch.allclose(out, conv(**args)) != read


def test_mask_with_reversed_flow(case):
    conv, args = case
    mask = torch.rand(16).double()
    one_way = conv.direction == "forward"
    conv.direction = "reverse" if one_way else "two_way"
    out = masked(conv, args, mask)
    conv.direction, conv.flow = "forward" if one_way else "two_way", "target_to_source"
    if one_way or conv.mode == "P":  # a two-way graph has the same line edges both ways
        torch.testing.assert_close(masked(conv, args, mask), out)
    torch.testing.assert_close(masked(conv, args, mask), scaled_states(conv, args, mask))


def test_mask_of_wrong_size(case):
    conv, args = case
    with pytest.raises(ValueError, match="edge mask of 16 entries"):
        masked(conv, args, torch.ones(8).double())


@pytest.mark.parametrize("local", [None, "gin"])
def test_gnn_explainer(case, local):
    conv, args = case
    args = {name: v.float() if name in ("x", "edge_attr") else v for name, v in args.items()}
    options = {"directions": conv.direction, "heads": 2, "local": local}
    model = PLSTM(5, 8, 2, 3, edge_dim=3, readout="mean", **options)
    explainer = Explainer(
        model,
        GNNExplainer(epochs=3),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "graph",
            "return_type": "raw",
        },
    )
    x, edge_index = args.pop("x"), args.pop("edge_index")
    before = model(x, edge_index, **args)
    explanation = explainer(x, edge_index, **args)
    assert explanation.edge_mask.shape == (16,) and explanation.node_mask.shape == (7, 5)
    # Only the columns that the DAG keeps matter to a one-way pLSTM; the local branch reads all.
    assert (explanation.edge_mask[8:] > 0).all()
    read = local is not None or conv.direction == "two_way"
    assert (explanation.edge_mask[:8] > 0).any() == read
    torch.testing.assert_close(model(x, edge_index, **args), before)


@pytest.mark.parametrize("mode", "PD")
def test_both_columns_of_an_edge_get_an_importance(mode):
    """In a two-way graph, made from edge_index by the layer itself."""
    _, edges = edges_of("shuffled")
    edge_index, x = torch.cat([edges, edges.flip(0)], 1), torch.randn(7, 5)
    explainer = Explainer(
        PLSTMConv(5, 6, 2, mode=mode),
        GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    importance = explainer(x, edge_index).edge_mask.view(2, -1)
    assert (importance > 0).all() and not torch.equal(*importance)


def test_dag_scan_is_the_one_recurrence(case, monkeypatch):
    """Single messages come from the same scan."""
    conv, args = case
    calls = []
    monkeypatch.setattr(
        "plstm_graph.nn.conv.dag_scan", lambda *a, **k: calls.append(1) or dag_scan(*a, **k)
    )
    masked(conv, args, torch.ones(16).double())
    assert calls == [1]
