"""Cells as gates of layers: bounds, gradients, symmetries, options."""

import copy
import math
import pickle

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks

from plstm_graph import PLSTM, LineGraph, PLSTMBlock, PLSTMConv, PLSTMGrid, grid_line_graph
from plstm_graph.nn.cells import CELL_NAMES, CELLS, cell_modes, make_cell
from plstm_graph.nn.cells.gated import outflow
from plstm_graph.nn.cells.softmax import joint_softmax
from plstm_graph.ops.inputs import LogGate
from plstm_graph.testing import check_equivariance
from tests.nn.cell_reference import MODES, bare, plain, reference
from tests.nn.conftest import EDGES, edges_of, line_graph_of

each = pytest.mark.parametrize("cell, mode", MODES, ids=["-".join(m) for m in MODES])
every = pytest.mark.parametrize("cell", list(CELLS))
TREE = torch.tensor([[0, 0, 1, 1, 2, 5], [1, 2, 3, 4, 5, 6]])
UNDIRECTED = torch.cat([TREE, TREE.flip(0)], 1)
#: A DAG with 7 nodes and one with both directions: x, edge_index, edge_attr.
GRAPHS = {"dag": edges_of("shuffled")[1], "two_way": UNDIRECTED}
on_both = pytest.mark.parametrize("graph", list(GRAPHS))


def features(edge_index, nodes=7, width=6, edge_dim=3, dtype=torch.double):
    x = torch.randn(nodes, width, dtype=dtype)
    return x, edge_index, torch.randn(edge_index.size(1), edge_dim, dtype=dtype)


# -------------------------------------------------------------------- options


def test_names_and_default_modes():
    assert CELL_NAMES == (
        "plstm", "mlstm", "gla", "mamba2", "delta", "gated_delta", "delta_product", "bd_lru",
        "h_lru", "state_tracking",
    )  # fmt: skip
    normalised = {"mlstm", "bd_lru", "h_lru"}
    for name in CELL_NAMES:
        assert cell_modes(name)[0] == ("N" if name in normalised else "P")
        assert "D" in cell_modes(name)
        assert PLSTMConv(6, 8, 2, cell=name).mode == cell_modes(name)[0]
        modes = PLSTM(6, 8, 2, 1, heads=2, cell=name).modes
        assert modes == ("PD" if name == "plstm" else cell_modes(name)[0])
    assert PLSTMConv(6, 8).cell == PLSTM(6, 8, 1, 1).cell == PLSTMGrid(8, 2).cell == "plstm"


def test_default_options_of_cells():
    gates = {name: PLSTMConv(6, 8, 2, cell=name).gates for name in CELLS}
    assert (gates["mlstm"].normalizer, gates["mlstm"].stabilizer) == ("max1", "logsumexp")
    assert {cell.normalizer for name, cell in gates.items() if name != "mlstm"} == {None}
    assert (gates["gla"].divisor, gates["gla"].lin_forget.in_channels) == (16.0, 16)
    assert not gates["delta"].negative_eigenvalues and not gates["gated_delta"].negative_eigenvalues
    product = gates["delta_product"]
    assert product.negative_eigenvalues and product.reflections == 2 and product.decay is None
    assert gates["bd_lru"].block == gates["h_lru"].block == gates["state_tracking"].states == 4


def test_repr():
    conv = PLSTMConv(6, 8, 2, cell="mlstm")
    assert str(conv) == "PLSTMConv(6, 8, cell='mlstm', heads=2, mode='N')"
    assert str(conv.gates) == "MLSTM(8, heads=2, mode='N')"
    model = PLSTM(6, 8, 2, 1, heads=2, cell="delta")
    assert str(model) == "PLSTM(6, 8, 1, cell='delta', num_layers=2, modes='P')"
    assert str(PLSTMGrid(8, 2, cell="gla")) == "PLSTMGrid(8, cell='gla', heads=2, ndim=2, mode='P')"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cell": "lstm"}, "cell to be one of 'plstm', 'mlstm', .*, got 'lstm'"),
        ({"cell": None}, "cell to be one of"),
        ({"mode": "N"}, "mode to be one of 'P', 'D', got 'N'; .* cell='plstm'"),
        ({"cell": "bd_lru", "mode": "P"}, "mode to be one of 'N', 'D', got 'P'; .* cell='bd_lru'"),
        ({"cell": "delta", "mode": "N"}, "mode to be one of 'P', 'D', got 'N'"),
        ({"cell": "gla", "qk_norm": True}, "qk_norm to be left out with cell='gla', got True"),
        ({"cell": "gla", "init": "grid"}, "init to be left out with cell='gla'"),
        ({"cell": "gla", "scale": 0.5}, "scale to be left out"),
        ({"cell": "gla", "normalization": "target"}, "normalization to be left out"),
        ({"cell": "gla", "transition": "factored"}, "transition to be left out"),
        ({"cell": "gla", "transition_node": "all"}, "transition_node to be left out"),
        ({"cell": "gla", "cell_options": {"rang": 3}}, r"cell='gla' \(rank, divisor\), got 'rang'"),
        ({"cell_options": {"rank": 3}}, r"cell='plstm' \(it has none\), got 'rank'"),
        ({"cell": "gla", "cell_options": 3}, "cell_options as a mapping"),
        ({"cell": "gla", "cell_options": {"rank": 0}}, "rank as an integer of 1 or more, got 0"),
        ({"cell": "gla", "cell_options": {"divisor": 0}}, "divisor as a finite number"),
        ({"cell": "mlstm", "cell_options": {"normalizer": "max"}}, "normalizer to be one of"),
        ({"cell": "mlstm", "cell_options": {"stabilizer": "sum"}}, "stabilizer to be one of"),
        ({"cell": "delta", "cell_options": {"negative_eigenvalues": 2}}, "negative_eigenvalues as"),
        (
            {"cell": "delta_product", "cell_options": {"reflections": 0}},
            "reflections as an int",
        ),
        ({"cell": "delta_product", "cell_options": {"gated": "yes"}}, "gated as True or False"),
        ({"cell": "bd_lru", "cell_options": {"block": 3}}, "block to divide out_channels=8, got 3"),
        ({"cell": "h_lru", "cell_options": {"block": 0}}, "block as an integer of 1 or more"),
        (
            {"cell": "state_tracking", "cell_options": {"states": 3}},
            "states to divide .* 4 cha",
        ),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PLSTMConv(6, 8, 2, **options)
    with pytest.raises(ValueError, match=message):
        PLSTMBlock(8, 2, **options)


def test_bad_options_of_grids_and_models():
    for options, message in (
        ({"cell": "gla", "angle": "published"}, "angle to be left out with cell='gla'"),
        ({"cell": "gla", "gate_weights": False}, "gate_weights to be left out"),
        ({"cell": "gla", "form": "gating"}, "form to be one of"),
        ({"cell": "lstm"}, "cell to be one of"),
        ({"mode": "N"}, "mode to be one of 'P', 'D'"),
        ({"cell": "bd_lru", "cell_options": {"block": 3}}, "block to divide"),
    ):
        with pytest.raises(ValueError, match=message):
            PLSTMGrid(8, 2, **options)
    with pytest.raises(ValueError, match="cell 'plstm', which has gating matrices, got 'gla'"):
        PLSTMGrid(8, 2, cell="gla").gating(torch.randn(1, 2, 2, 8))
    with pytest.raises(ValueError, match="modes as a pattern of 'N' and 'D', got 'PD'"):
        PLSTM(6, 8, 2, 1, heads=2, cell="bd_lru", modes="PD")
    with pytest.raises(ValueError, match="cell to be one of"):
        PLSTM(6, 8, 2, 1, cell="lstm")


@every
def test_message_hooks_are_refused_and_hooks_of_gates_work(cell):
    conv = bare(cell)
    x, edge_index, _ = features(GRAPHS["dag"])
    out = conv(x, edge_index)
    seen = []
    handle = conv.gates.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(conv(x, edge_index), out)
    handle.remove()
    assert seen[0].source is not None and len(seen) == 1
    handle = conv.register_message_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match=f"hooks on the module's gates with cell='{cell}'"):
        conv(x, edge_index)
    handle.remove()
    torch.testing.assert_close(conv(x, edge_index), out)


# -------------------------------------------------------------------- the operator and gradients


@on_both
@each
def test_equals_the_loop_over_edges(cell, mode, graph):
    conv = bare(cell, mode=mode, edge_dim=3, direction_offset=True)
    x, edge_index, edge_attr = features(GRAPHS[graph])
    tensors = []
    conv.gates.register_forward_hook(lambda module, inputs, output: tensors.append(output))
    out, gates = conv(x, edge_index, edge_attr, return_gates=True)
    *inputs, edge_query, update, own = tensors[0]
    options = {"edge_query": edge_query, "update": update}
    options |= {"normalizer": conv.gates.normalizer, "stabilizer": conv.gates.stabilizer}
    want = reference(*inputs, gates.line_graph, **options)
    want = want if own is None else want + own
    torch.testing.assert_close(out, want.flatten(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("with_edges", [True, False], ids=["edges", "nodes"])
@on_both
@each
def test_gradcheck(cell, mode, graph, with_edges):
    edge_dim = 2 if with_edges else None
    conv = PLSTMConv(2, 4, 1, cell=cell, mode=mode, edge_dim=edge_dim).double()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    edge_index = GRAPHS[graph]
    x, _, edge_attr = features(edge_index, width=2, edge_dim=2)
    names, params = zip(*conv.named_parameters())
    line_graph = LineGraph.from_edge_index(edge_index, 7)

    def run(x, edge_attr, *params):
        args = (x, edge_index, edge_attr if with_edges else None)
        options = {"line_graph": line_graph}
        return torch.func.functional_call(conv, dict(zip(names, params)), args, options)

    inputs = (x.requires_grad_(), edge_attr.requires_grad_(), *params)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", list(EDGES))
@every
def test_every_graph_forward_and_backward(cell, name):
    nodes, edge_index = edges_of(name)
    conv = PLSTMConv(6, 8, 2, cell=cell, edge_dim=3)
    x, _, edge_attr = features(edge_index, nodes, dtype=torch.float)
    out = conv(x.requires_grad_(), edge_index, edge_attr)
    assert out.shape == (nodes, 8) and out.isfinite().all()
    out.square().sum().backward()
    grads = [p.grad for p in conv.parameters() if p.grad is not None]
    assert len(grads) > (4 if nodes else 2) and all(grad.isfinite().all() for grad in grads)


@each
def test_does_not_depend_on_the_numbering_of_a_tree(cell, mode):
    conv = PLSTMConv(6, 8, 2, cell=cell, mode=mode, edge_dim=3).double()
    x, edge_index, edge_attr = features(UNDIRECTED)
    data = Data(x=x, edge_index=edge_index, edge_attr=torch.cat([edge_attr[:6], edge_attr[:6]]))
    check_equivariance(conv, data)


@every
def test_hears_the_whole_tree(cell):
    conv = bare(cell)
    x, edge_index, _ = features(UNDIRECTED)
    jacobian = torch.autograd.functional.jacobian(lambda x: conv(x, edge_index), x)
    assert (jacobian.abs().amax((1, 3)) > 0).all()


@every
def test_a_batch_equals_its_parts(cell):
    conv = bare(cell, edge_dim=3)
    graphs = [features(edge_index) for edge_index in (TREE, GRAPHS["dag"], TREE)]
    x, edge_attr = (torch.cat([graph[i] for graph in graphs]) for i in (0, 2))
    edge_index = torch.cat([graph[1] + 7 * i for i, graph in enumerate(graphs)], 1)
    want = torch.cat([conv(*graph) for graph in graphs])
    torch.testing.assert_close(conv(x, edge_index, edge_attr), want, rtol=1e-10, atol=1e-10)


# -------------------------------------------------------------------- gates of edges


def concatenated(conv, x, edge_attr, node_part, edge_parts):
    """A logit by its definition: one linear map of concatenated features."""
    lin, edge = conv.projection.lin_node, conv.projection.lin_edge
    logit = 0.0
    if node_part is not None:
        rows = lin.rows[node_part]
        logit = x @ lin.weight[rows].t() + lin.bias[rows]
    for name, attr in edge_parts:
        logit = logit + attr @ edge.weight[edge.rows[name]].t()
    return logit


@on_both
@pytest.mark.parametrize("cell", ["mlstm", "mamba2", "gated_delta", "delta"])
def test_gates_read_nodes_and_edges(cell, graph):
    conv = bare(cell, mode="D", edge_dim=3)
    x, edge_index, edge_attr = features(GRAPHS[graph])
    _, gates = conv(x, edge_index, edge_attr, return_gates=True)
    line_graph = gates.line_graph
    src, dst = line_graph.edge_index
    e_in, e_out = line_graph.line_index
    a = edge_attr[line_graph.edge_id]
    forget, write = conv.gates.forget_part, conv.gates.input_part
    sides = [("forget_in", a[e_in]), ("forget_out", a[e_out])]
    transition = concatenated(conv, x[dst[e_in]], a, forget, sides)
    mark = concatenated(conv, x[dst], a, forget, [("forget_in", a)])
    source = concatenated(conv, x[src], a, write, [("input", a)])
    softplus = torch.nn.functional.softplus
    if cell == "mlstm":
        cap = lambda y: 15 * (y / 15).tanh()  # noqa: E731
        transition, mark = cap(transition).sigmoid(), cap(mark).sigmoid()
        source = cap(source).exp()
    elif cell == "delta":
        transition, mark, source = ((4 + y).sigmoid() for y in (transition, mark, source))
    else:
        rate = (conv.gates if cell == "mamba2" else conv.gates.decay).log_rate.exp()
        transition, mark = ((-rate * softplus(y)).exp() for y in (transition, mark))
        source = softplus(source) if cell == "mamba2" else (4 + source).sigmoid()
    for got, want in ((gates.transition, transition), (gates.mark, mark), (gates.source, source)):
        torch.testing.assert_close(plain(got), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", ["delta", "delta_product"])
def test_without_edge_features_delta_rules_have_no_gates(cell):
    conv = bare(cell, mode="D")
    x, edge_index, _ = features(GRAPHS["dag"])
    _, gates = conv(x, edge_index, return_gates=True)
    for gate in gates[:4]:
        torch.testing.assert_close(gate, torch.ones_like(gate), rtol=0, atol=0)


@every
def test_the_direction_of_an_edge_moves_gates(cell):
    conv = bare(cell, direction_offset=True)
    x, edge_index, _ = features(UNDIRECTED)
    one_way = conv(x, TREE, line_graph=LineGraph.from_edge_index(TREE, 7))
    two_way = conv(x, edge_index)
    with torch.no_grad():
        conv.direction_offset.zero_()
    assert not torch.allclose(conv(x, edge_index), two_way)
    torch.testing.assert_close(conv(x, TREE), one_way)
    conv.reset_parameters()
    assert torch.equal(conv.direction_offset, torch.zeros_like(conv.direction_offset))


@every
def test_edge_masks_scale_states(cell):
    conv = bare(cell, edge_dim=3)
    args = features(GRAPHS["dag"])
    out = conv(*args)

    def masked(mask):
        set_masks(conv, mask, args[1], False)
        masked_out = conv(*args)
        clear_masks(conv)
        return masked_out

    torch.testing.assert_close(masked(torch.ones(8, dtype=torch.double)), out)
    nothing = masked(torch.zeros(8, dtype=torch.double))

    def silent(module, inputs, tensors):
        if isinstance(tensors.source, LogGate):
            return tensors._replace(source=LogGate(tensors.source.log_abs - 700))
        return tensors._replace(source=0 * tensors.source)

    handle = conv.gates.register_forward_hook(silent)
    torch.testing.assert_close(nothing, conv(*args), rtol=1e-10, atol=1e-10)
    handle.remove()
    assert not torch.allclose(nothing, out)


# -------------------------------------------------------------------- bounds


@pytest.mark.parametrize("cell", [name for name in CELLS if "P" in CELLS[name].modes])
@on_both
def test_what_leaves_an_edge_is_bounded_in_p_mode(cell, graph):
    x, edge_index, edge_attr = features(GRAPHS[graph])
    conv = bare(cell, mode="P", edge_dim=3)
    with torch.no_grad():
        for name, parameter in conv.gates.named_parameters():
            if "log_rate" in name:
                parameter.fill_(-4)
    _, gates = conv(x, edge_index, edge_attr, return_gates=True)
    size = plain(gates.transition)
    if cell == "state_tracking":
        size = torch.linalg.matrix_norm(size, 2)
    e_in = gates.line_graph.line_index[0]
    total = torch.zeros(gates.line_graph.num_edges, *size.shape[1:], dtype=size.dtype)
    total = total.index_add(0, e_in, size)
    assert total.max() <= 1 + 1e-12
    # A line edge that is the only one behind its edge is as it is in D-mode without pruning.
    free = bare(cell, mode="D", edge_dim=3)
    free.load_state_dict(conv.state_dict())
    lone = torch.bincount(e_in)[e_in] == 1
    free.mode = "P"  # no pruning
    _, others = free(x, edge_index, edge_attr, return_gates=True)
    assert 0 < lone.sum() < len(lone)
    want, got = plain(others.transition), plain(gates.transition)
    torch.testing.assert_close(got[lone], want[lone], rtol=1e-12, atol=1e-12)
    assert (want.abs() - got.abs() >= -1e-12).all() and not torch.allclose(want, got)


def test_outflow_counts_what_leaves_an_edge():
    graph = line_graph_of(5, torch.tensor([[0, 1, 1, 2], [1, 2, 3, 4]]))
    lines = graph.line_index.t().tolist()
    size = torch.tensor([{(0, 1): 0.9, (0, 2): 0.5, (1, 3): 0.3}[tuple(line)] for line in lines])
    want = torch.tensor([{0: 1.4, 1: 1.0}[e_in] for e_in, _ in lines])
    torch.testing.assert_close(outflow(size, graph), want)


@pytest.mark.parametrize("cell", ["bd_lru", "h_lru"])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_states_stay_below_the_largest_input(cell, size):
    """On a grid with C(38, 19) = 3.5e10 paths from corner to corner."""
    graph = grid_line_graph(20, 20)
    conv = bare(cell, direction="forward")
    with torch.no_grad():
        for name, rows in conv.projection.lin_node.rows.items():
            conv.projection.lin_node.weight[rows] *= size if name != "value" else 1
    x = torch.randn(400, 6, dtype=torch.double)
    value = conv.projection.lin_node(x)[:, conv.projection.lin_node.rows["value"]].abs()
    out = conv(x, None, line_graph=graph)
    assert out.abs().max() <= value.max() * (1 + 1e-12)
    _, gates = conv(x, None, line_graph=graph, return_gates=True)
    assert gates.transition.min() >= 0 and gates.source.min() >= 0
    # Rows: all predecessors, their states, and the input.
    rows = gates.source.sum(-2).index_add(0, graph.line_index[1], gates.transition.sum(-1))
    first = gates.line_graph.level == 0
    inner = rows if cell == "bd_lru" else rows[..., :1]
    torch.testing.assert_close(inner[~first], torch.ones_like(inner[~first]))
    assert (rows <= 1 + 1e-12).all() and (inner[first] < 1).any()


def test_joint_softmax_with_large_logits():
    group = torch.tensor([0, 0, 2])
    logit = torch.tensor([[[1e4, 0.0]], [[1e4, -1e4]], [[-1e4, -1e4]]], dtype=torch.double)
    write = torch.tensor([[0.0], [3.0], [1e4]], dtype=torch.double)
    virtual = torch.full((3, 1, 2), 2.0, dtype=torch.double) + 1e6 * (group[:, None, None] == 3)
    virtual[0] = 1e9  # has predecessors: is not counted
    t, a = joint_softmax(logit, write, virtual, group)
    want = torch.tensor([[[0.5, 0]], [[0.5, 0]], [[0, 0]]], dtype=torch.double)
    torch.testing.assert_close(t, want)
    share = math.exp(3) / (math.exp(3) + 2 * math.exp(2))
    torch.testing.assert_close(a, torch.tensor([[0], [share], [1]], dtype=torch.double))


@pytest.mark.parametrize("cell", ["delta", "gated_delta", "delta_product"])
def test_updates_have_norm_at_most_one(cell):
    conv = bare(cell, 8, 2, cell_options={"negative_eigenvalues": True})
    x = 10 * torch.randn(50, 6, dtype=torch.double)
    node = dict(zip(conv.projection.node_parts, conv.projection(x, None, None)))
    tensors = conv.gates.node_tensors(node)
    key, beta, _ = tensors.update
    A = torch.eye(4, dtype=torch.double).expand(50, 2, 4, 4)
    for r in range(key.size(2)):
        k = key[:, :, r]
        A = A - beta[:, :, r, None, None] * k[..., None] * (k[..., None, :] @ A)
    norm = torch.linalg.matrix_norm(A, 2)
    assert norm.max() <= 1 + 1e-12 and beta.max() > 1.5
    # What reads the edges has seen the update.
    torch.testing.assert_close(tensors.edge_query, (A.mT @ tensors.query[..., None])[..., 0])


def test_state_tracking_can_reflect_and_rotate():
    conv = bare("state_tracking", 8, 2)
    with torch.no_grad():
        conv.projection.lin_node.weight[conv.projection.lin_node.rows["singular"]] *= 10
    x = torch.randn(50, 6, dtype=torch.double)
    node = dict(zip(conv.projection.node_parts, conv.projection(x, None, None)))
    transition = conv.gates.node_tensors(node).transition
    sizes = torch.linalg.svdvals(transition)
    assert sizes.max() <= 1 + 1e-12
    sign = torch.linalg.det(transition).sign()
    assert (sign < 0).any() and (sign > 0).any()


# -------------------------------------------------------------------- start


def test_cells_start_as_published():
    rows = lambda cell, name: cell.projection.lin_node.rows[name]  # noqa: E731

    def bias(conv, name):
        return conv.projection.lin_node.bias[rows(conv, name)]

    def weight(conv, name):
        return conv.projection.lin_node.weight[rows(conv, name)]

    torch.manual_seed(0)
    mlstm = PLSTMConv(6, 128, 32, cell="mlstm")
    torch.testing.assert_close(bias(mlstm, "forget"), torch.linspace(3, 6, 32))
    assert 0.05 < bias(mlstm, "input").std() < 0.2
    assert not weight(mlstm, "forget").any() and not weight(mlstm, "input").any()
    for name, part, low in (("mamba2", "step", 1.0), ("gated_delta", "forget", 0.0)):
        conv = PLSTMConv(6, 128, 32, cell=name)
        gates = conv.gates if name == "mamba2" else conv.gates.decay
        step = torch.nn.functional.softplus(bias(conv, part))
        assert step.min() > 9e-4 and step.max() < 0.101 and step.max() / step.min() > 5
        rate = gates.log_rate.exp()
        assert low <= rate.min() < 4 and 10 < rate.max() <= 16
        assert weight(conv, part).any()
    assert torch.equal(PLSTMConv(6, 8, 2, cell="mamba2").gates.skip, torch.ones(2))
    conv = PLSTMConv(6, 8, 2, cell="state_tracking")
    node = dict(zip(conv.projection.node_parts, conv.projection(torch.randn(3, 6), None, None)))
    transition = conv.gates.node_tensors(node).transition
    torch.testing.assert_close(transition, math.tanh(5) * torch.eye(4).expand_as(transition))
    conv = PLSTMConv(400, 8, 2, cell="gated_delta", edge_dim=100)  # 1 / sqrt(400 + 2 x 100)
    assert 0.03 < weight(conv, "forget").abs().max() <= 600**-0.5
    assert 0.04 < weight(conv, "beta").abs().max() <= 400**-0.5


@every
def test_reset_pickle_copy_and_lazy(cell):
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    lazy = PLSTMConv(-1, 8, 2, cell=cell, edge_dim=-1)
    fresh = copy.deepcopy(lazy)
    out = lazy(x, edge_index, edge_attr)
    fresh.load_state_dict(lazy.state_dict())
    for other in (fresh, pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy)):
        torch.testing.assert_close(other(x, edge_index, edge_attr), out)
    lazy.reset_parameters()
    assert not torch.allclose(lazy(x, edge_index, edge_attr), out)


# -------------------------------------------------------------------- training


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@every
def test_trains(cell, low):
    torch.manual_seed(1)
    model = PLSTM(6, 16, 2, 1, heads=2, cell=cell, edge_dim=3, readout="mean")
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            out = model(x, edge_index, edge_attr)
        loss = (out.float() - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert math.isfinite(losses[-1]) and losses[-1] < 0.5 * losses[0]
    moved = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # With the initial rotations zero, their edge parts still learn; unused parts would not.
    assert not [name for name in moved if "gates" in name or "projection" in name]


@every
def test_halves(cell):
    conv = PLSTMConv(6, 8, 2, cell=cell, edge_dim=3)
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    want = conv(x, edge_index, edge_attr)
    got = conv.bfloat16()(x.bfloat16(), edge_index, edge_attr.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0.1, atol=0.1)


@every
def test_compiles(cell):
    conv = PLSTMConv(6, 8, 2, cell=cell, edge_dim=3)
    x, edge_index, edge_attr = features(UNDIRECTED, dtype=torch.float)
    graph = LineGraph.from_edge_index(edge_index, 7)
    want = conv(x, edge_index, edge_attr, line_graph=graph)
    torch._dynamo.reset()
    compiled = torch.compile(conv, backend="aot_eager")
    got = compiled(x, edge_index, edge_attr, line_graph=graph)
    torch.testing.assert_close(got, want)
    weights = [p for p in conv.parameters() if p.requires_grad]
    for one, other in zip(
        torch.autograd.grad(got.square().sum(), weights, allow_unused=True),
        torch.autograd.grad(want.square().sum(), weights, allow_unused=True),
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_normalizers_of_mlstm():
    x, edge_index, _ = features(UNDIRECTED)
    out = {}
    for normalizer in (None, "max1", "sum", "norm"):
        options = {"normalizer": normalizer, "stabilizer": None}
        if normalizer == "norm":
            options["stabilizer"] = "logsumexp"
        torch.manual_seed(2)
        conv = bare("mlstm", cell_options=options)
        out[normalizer] = conv(x, edge_index)
        if normalizer == "sum":  # a weighted mean of values
            proj = conv.projection
            value = proj.lin_node(x)[:, proj.lin_node.rows["value"]]
            assert out["sum"].abs().max() <= value.abs().max()
    assert not torch.allclose(out["max1"], out[None]) and out["norm"].isfinite().all()


def test_make_cell_is_none_for_plstm():
    assert make_cell("plstm", 8, 2, "P", None) is None
