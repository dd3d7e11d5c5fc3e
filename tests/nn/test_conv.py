"""PLSTMConv: the definition, its symmetries and PyG's conventions."""

import copy
import pickle

import pytest
import torch
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor

from plstm_graph import LineGraph
from plstm_graph.nn import PLSTMConv
from plstm_graph.nn.norm import HeadRMSNorm, log_rms, mean_square
from plstm_graph.ops import plstm
from plstm_graph.transforms import ToLineGraph
from tests.nn.conftest import EDGES, edges_of, features, line_graph_of, output


def by_definition(conv, x, graph, gates):
    proj = conv.projection
    q, k, v = (
        part.unflatten(-1, (conv.heads, -1)) for part in proj.lin_node(x).split(proj.split, -1)[:3]
    )
    source, transition, mark, direct, _ = gates
    h = plstm(q, k, v, source, transition, mark, direct, graph, scale=conv.scale, form="naive")
    return output(conv, h)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_is_the_definition(conv, graph, scale):
    conv.scale, conv.orientation = scale, "index"  # by which the given line graph is pruned
    x, edge_attr = features(graph)
    out, gates = conv(x, graph.edge_index, edge_attr, line_graph=graph, return_gates=True)
    assert out.shape == (graph.num_nodes, 6)
    expected = by_definition(conv, x, gates.line_graph, gates)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    # And what it does without a line graph is what it does with one.
    torch.testing.assert_close(conv(x, graph.edge_index, edge_attr), out, rtol=0, atol=1e-12)


def test_backward_on_every_graph(conv, graph):
    x, edge_attr = features(graph)
    x.requires_grad_(), edge_attr.requires_grad_()
    conv(x, graph.edge_index, edge_attr, line_graph=graph).square().sum().backward()
    leaves = [x, edge_attr, *conv.parameters()]
    assert all(leaf.grad.isfinite().all() for leaf in leaves if leaf.grad is not None)
    assert x.grad is not None
    assert graph.num_edges == 0 or all(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("transition_node", ["junction", "start", "all"])
@pytest.mark.parametrize("mode, normalization", [("P", "source"), ("P", "target"), ("D", "source")])
def test_gradcheck(mode, normalization, transition_node):
    graph = line_graph_of(*edges_of("diamond"))
    conv = PLSTMConv(
        3, 4, 2, mode=mode, normalization=normalization, edge_dim=2, transition_node=transition_node
    ).double()
    x, edge_attr = (v.requires_grad_() for v in features(graph, 3, 2))
    names, params = zip(*conv.named_parameters())

    def run(x, edge_attr, *params):
        return torch.func.functional_call(
            conv,
            dict(zip(names, params)),
            (x, graph.edge_index, edge_attr),
            {"line_graph": graph},
        )

    assert torch.autograd.gradcheck(run, (x, edge_attr, *params))


def test_batch_equals_its_parts(conv):
    parts = [line_graph_of(*edges_of(name)) for name in EDGES]
    data = [features(part) for part in parts]
    offset, edges, batch = 0, [], []
    for b, part in enumerate(parts):
        edges.append(part.edge_index + offset)
        batch += [b] * part.num_nodes
        offset += part.num_nodes
    edge_index, batch = torch.cat(edges, 1), torch.tensor(batch)
    union = line_graph_of(offset, edge_index, node_batch=batch)
    x, edge_attr = (torch.cat(values) for values in zip(*data))
    for given in (True, False):
        expected = [
            conv(x, part.edge_index, edge_attr, line_graph=part if given else None)
            for part, (x, edge_attr) in zip(parts, data)
        ]
        line_graph = union if given else None
        out = conv(x, edge_index, edge_attr, line_graph=line_graph, batch=batch)
        torch.testing.assert_close(out, torch.cat(expected), rtol=1e-6, atol=1e-8)


def test_permuting_nodes(conv, dag):
    x, edge_attr = features(dag)
    out = conv(x, dag.edge_index, edge_attr, line_graph=dag)
    nodes = torch.randperm(dag.num_nodes)
    kept = dag.multitree() if conv.mode == "D" else dag  # pruning breaks ties by node
    edge_index = torch.argsort(nodes)[dag.edge_index]
    graph = LineGraph(dag.num_nodes, edge_index, kept.line_index)
    graph.is_multitree = conv.mode == "D"
    permuted = conv(x[nodes], edge_index, edge_attr, line_graph=graph)
    torch.testing.assert_close(permuted, out[nodes], rtol=1e-10, atol=1e-10)


def test_permuting_edges(conv, dag):
    x, edge_attr = features(dag)
    out = conv(x, dag.edge_index, edge_attr)
    edges = torch.randperm(dag.num_edges)
    permuted = conv(x, dag.edge_index[:, edges], edge_attr[edges])
    torch.testing.assert_close(permuted, out, rtol=1e-10, atol=1e-10)


def test_only_direct_is_left_without_edges(conv):
    x = torch.randn(4, 5, dtype=torch.double)
    out, gates = conv(x, torch.empty(2, 0, dtype=torch.long), x.new_empty(0, 3), return_gates=True)
    q, k, v = (p.view(4, 2, 3) for p in conv.projection.lin_node(x)[:, :18].split(6, -1))
    h = gates.direct[..., None] * (q * k).sum(-1, keepdim=True) * v
    torch.testing.assert_close(out, output(conv, h))


def test_directions(conv, dag):
    x, edge_attr = features(dag)
    state = conv.state_dict()

    def run(line_graph=dag, edge_index=dag.edge_index, **kwargs):
        other = PLSTMConv(5, 6, 2, mode=conv.mode, edge_dim=3, **kwargs).double()
        other.load_state_dict(state)
        return other(x, edge_index, edge_attr, line_graph=line_graph)

    forward, backward = run(), run(line_graph=dag.reverse())
    assert not torch.allclose(forward, backward)
    torch.testing.assert_close(run(direction="forward"), forward)
    torch.testing.assert_close(run(direction="reverse"), backward)
    torch.testing.assert_close(run(flow="target_to_source"), backward)
    torch.testing.assert_close(run(flow="target_to_source", direction="reverse"), forward)
    if conv.mode == "P":  # pruning breaks ties by node
        turned = dag.edge_index.flip(0)
        torch.testing.assert_close(run(None, turned, flow="target_to_source"), forward)


def test_symmetric_graph_reads_the_kept_columns(conv, dag):
    x, edge_attr = features(dag)
    both = torch.cat([dag.edge_index.flip(0), dag.edge_index], 1)
    attr = torch.cat([torch.full_like(edge_attr, torch.nan), edge_attr])
    line_graph = LineGraph(
        dag.num_nodes, dag.edge_index, dag.line_index, edge_id=torch.arange(8) + 8
    )
    out = conv(x, both, attr, line_graph=line_graph)
    torch.testing.assert_close(out, conv(x, dag.edge_index, edge_attr, line_graph=dag))
    edge_attr = torch.cat([edge_attr, edge_attr])
    assert conv(x, both, edge_attr).isfinite().all()


def test_ways_to_give_the_graph(conv, dag):
    x, edge_attr = features(dag)
    order = torch.argsort(dag.edge_index[1] * 7 + dag.edge_index[0])
    edge_index, edge_attr = dag.edge_index[:, order], edge_attr[order]
    graph = line_graph_of(7, edge_index)
    out = conv(x, edge_index, edge_attr, line_graph=graph)
    torch.testing.assert_close(conv(x, None, edge_attr, line_graph=graph), out)
    index = EdgeIndex(edge_index, sparse_size=(7, 7))
    torch.testing.assert_close(conv(x, index, edge_attr, line_graph=graph), out)
    torch.testing.assert_close(conv(x, index, edge_attr), out)
    adj = torch.sparse_coo_tensor(edge_index.flip(0), edge_attr, (7, 7, 3)).coalesce()
    torch.testing.assert_close(conv(x, adj), out)
    csr = torch.sparse_coo_tensor(edge_index.flip(0), torch.ones(8), (7, 7)).to_sparse_csr()
    torch.testing.assert_close(conv(x, csr, edge_attr, line_graph=graph), out)
    flow = PLSTMConv(5, 6, edge_dim=3, flow="target_to_source").double()
    with pytest.raises(ValueError, match="transpose"):
        flow(x, adj)
    if WITH_TORCH_SPARSE:
        adj = SparseTensor(row=edge_index[1], col=edge_index[0], value=edge_attr)
        torch.testing.assert_close(conv(x, adj), out)


@pytest.mark.parametrize("direction", ["auto", "forward", "reverse"])
def test_a_line_graph_alone_reads_the_columns_of_its_input(conv, dag, direction):
    conv.direction = direction
    x, _ = features(dag)
    both = torch.cat([dag.edge_index, dag.edge_index.flip(0)], 1)
    edge_attr = torch.randn(16, 3, dtype=torch.double)
    for edge_index, attr in ((dag.edge_index, edge_attr[:8]), (both, edge_attr)):
        graph = LineGraph.from_edge_index(edge_index, 7)
        out = conv(x, edge_index, attr, line_graph=graph)
        graphs = [graph, graph.two_way()] if direction == "auto" and attr is edge_attr else [graph]
        for line_graph in graphs:
            torch.testing.assert_close(conv(x, None, attr, line_graph=line_graph), out)


def test_lazy(dag):
    x, edge_attr = features(dag, dtype=torch.float)
    conv = PLSTMConv(-1, 6, 2, edge_dim=-1)
    fresh = copy.deepcopy(conv)
    assert str(conv) == "PLSTMConv(-1, 6, heads=2, mode='P')"
    out = conv(x, dag.edge_index, edge_attr, line_graph=dag)
    assert conv.projection.lin_node.weight.shape == (18 + 8, 5)
    fresh.load_state_dict(conv.state_dict())
    torch.testing.assert_close(fresh(x, dag.edge_index, edge_attr, line_graph=dag), out)
    assert torch.equal(conv(x, dag.edge_index, edge_attr, line_graph=dag), out)


def test_state_pickle_and_repr(conv, dag):
    x, edge_attr = features(dag)
    out = conv(x, dag.edge_index, edge_attr, line_graph=dag)
    for other in (pickle.loads(pickle.dumps(conv)), copy.deepcopy(conv)):
        torch.testing.assert_close(other(x, dag.edge_index, edge_attr, line_graph=dag), out)
    assert set(conv.state_dict()) == {
        "projection.lin_node.weight",
        "projection.lin_node.bias",
        "projection.lin_edge.weight",
        "norm.scale",
        "lin_out.weight",
        "lin_out.bias",
    }
    assert str(conv) == f"PLSTMConv(5, 6, heads=2, mode='{conv.mode}')"
    conv.reset_parameters()
    assert not torch.allclose(conv(x, dag.edge_index, edge_attr, line_graph=dag), out)


def test_one_dimensional_edge_attr_and_autocast(dag):
    conv = PLSTMConv(5, 6, 2, edge_dim=1)
    x = torch.randn(7, 5, requires_grad=True)
    out = conv(x, dag.edge_index, torch.randn(8), line_graph=dag)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = conv(x, dag.edge_index, torch.zeros(8, 1), line_graph=dag)
    low.float().sum().backward()
    assert out.shape == low.shape and x.grad.isfinite().all()


# -------------------------------------------------------------------- hooks


def test_messages_equal_the_operator(conv, graph):
    x, edge_attr = features(graph)
    run = {"edge_index": graph.edge_index, "edge_attr": edge_attr, "line_graph": graph}
    out = conv(x, **run)
    seen = []
    handles = [
        conv.register_message_forward_hook(lambda m, i, o: seen.append(o.shape)),
        conv.register_propagate_forward_hook(lambda m, i, o: seen.append(o.shape)),
        conv.register_edge_update_forward_hook(lambda m, i, o: seen.append(len(o))),
    ]
    torch.testing.assert_close(conv(x, **run), out, rtol=1e-10, atol=1e-10)
    assert seen == [3, (graph.num_edges, 2, 3), (graph.num_nodes, 2, 3)]
    for handle in handles:
        handle.remove()
    assert not conv._watched()
    conv.flow = "target_to_source"
    out = conv(x, **run)
    conv.register_message_forward_pre_hook(lambda m, i: None)
    torch.testing.assert_close(conv(x, **run), out, rtol=1e-10, atol=1e-10)


def test_hooks_change_what_they_see(conv, dag):
    x, edge_attr = features(dag)
    run = {"edge_index": dag.edge_index, "edge_attr": edge_attr, "line_graph": dag}
    _, gates = conv(x, **run, return_gates=True)
    handle = conv.register_message_forward_hook(lambda m, i, o: 0 * o)
    silent = conv(x, **run)
    handle.remove()
    expected = by_definition(conv, x, gates.line_graph, gates._replace(mark=0 * gates.mark))
    torch.testing.assert_close(silent, expected)
    conv.register_edge_update_forward_hook(lambda m, i, o: (0 * o[0], *o[1:]))
    torch.testing.assert_close(conv(x, **run), expected)


def test_subclass_may_define_messages(dag):
    class Quiet(PLSTMConv):
        def message(self, query_i, state, mark):
            return 0 * super().message(query_i, state, mark)

    x, _ = features(dag)
    quiet = Quiet(5, 6).double()
    quiet_out, gates = quiet(x, dag.edge_index, line_graph=dag, return_gates=True)
    expected = by_definition(quiet, x, dag, gates._replace(mark=0 * gates.mark))
    torch.testing.assert_close(quiet_out, expected)


# -------------------------------------------------------------------- compilation and batches


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "D", "edge_dim": 3},
        {"flow": "target_to_source"},
    ],
    ids=str,
)
def test_compiles_as_one_graph(dag, options):
    x, edge_attr = features(dag, dtype=torch.float)
    conv = PLSTMConv(5, 6, 2, **options)
    args = x, dag.edge_index, edge_attr if "edge_dim" in options else None
    expected = conv(*args, line_graph=dag)
    torch._dynamo.reset()
    out = torch.compile(conv, fullgraph=True, backend="aot_eager")(*args, line_graph=dag)
    torch.testing.assert_close(out, expected)
    weights = list(conv.parameters())
    for got, want in zip(
        torch.autograd.grad(out.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("orientation", ["index", "canonical"])
def test_line_graph_from_a_loader(conv, orientation):
    conv.orientation = orientation
    data_list = []
    for name in EDGES:
        num_nodes, edge_index = edges_of(name)
        edge_index = torch.cat([edge_index, edge_index.flip(0)], 1)
        x = torch.randn(num_nodes, 5, dtype=torch.double)
        edge_attr = torch.randn(edge_index.size(1), 3, dtype=torch.double)
        data_list.append(Data(x=x, edge_index=edge_index, edge_attr=edge_attr))
    transform = ToLineGraph(orientation)
    loader = DataLoader([transform(data) for data in data_list], batch_size=len(data_list))
    (batch,) = loader
    args = batch.x, batch.edge_index, batch.edge_attr
    out = conv(*args, line_graph=LineGraph.from_data(batch))
    parts = [conv(data.x, data.edge_index, data.edge_attr) for data in data_list]
    torch.testing.assert_close(out, torch.cat(parts), rtol=1e-6, atol=1e-8)


def test_without_head_norm_the_output_is_linear_in_what_was_received():
    torch.manual_seed(0)
    x, edge_index = torch.randn(4, 6), torch.tensor([[0, 1, 1], [1, 2, 3]])
    conv = PLSTMConv(6, 6, heads=2, head_norm=False, bias=False)
    assert conv.norm is None and not any("norm" in name for name, _ in conv.named_parameters())
    with torch.no_grad():
        want = 3 * conv(x, edge_index)
        conv.projection.lin_node.weight[conv.projection.lin_node.rows["value"]] *= 3
        assert torch.allclose(conv(x, edge_index), want, atol=1e-6)
    conv.reset_parameters()


def test_qk_norm_bounds_what_the_size_of_the_input_does():
    """Ten times the query and key, or the value alone: only the value's size shows."""
    torch.manual_seed(0)
    x, edge_index = torch.randn(4, 6), torch.tensor([[0, 1, 1], [1, 2, 3]])
    conv = PLSTMConv(6, 6, heads=2, qk_norm=True, head_norm=False, bias=False)
    rows = conv.projection.lin_node.rows
    with torch.no_grad():
        want = conv(x, edge_index)
        for name, factor in (("query", 1), ("key", 1), ("value", 10)):
            conv.projection.lin_node.weight[rows[name]] *= 10
            want = want * factor
            assert torch.allclose(conv(x, edge_index), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_head_norm_that_is_given_the_mean_square(dtype):
    torch.manual_seed(0)
    norm = HeadRMSNorm(2, 5).to(dtype)
    with torch.no_grad():
        norm.scale.uniform_(0.5, 2)
    x = (torch.randn(7, 2, 5) * torch.tensor([1e-4, 1.0]).view(2, 1)).to(dtype).requires_grad_()
    cotangent, found = torch.randn(7, 2, 5).to(dtype), []
    for square in (None, mean_square(x)):
        out = norm(x, square)
        assert out.dtype == dtype
        grads = torch.autograd.grad(out, (x, norm.scale), cotangent)
        found.append((out, log_rms(x, square), *grads))
    eps = 4 * torch.finfo(dtype).eps
    for own, given in zip(*found):
        largest = float(own.detach().abs().max())
        torch.testing.assert_close(given, own, rtol=eps, atol=eps * largest)
