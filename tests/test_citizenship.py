"""Layers and operators in ``torch.compile``, ``torch.export`` and ``torch.func``."""

import copy
import io

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, ShapesCollection
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.utils import _pytree as pytree
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from plstm_graph import (
    PLSTM,
    LineGraph,
    PLSTMBlock,
    PLSTMConv,
    PLSTMGrid,
    PLSTMSequence,
    ToLineGraph,
    dag_scan,
    gating_matrix,
    plstm,
    prepare,
)
from plstm_graph.ops import Factored
from tests.zoo import ZOO, inputs


def molecule(seed: int) -> Data:
    """A random tree of 6 to 13 nodes with one ring, undirected."""
    rng = torch.Generator().manual_seed(seed)
    n = int(torch.randint(6, 14, (), generator=rng))
    pairs = [(int(torch.randint(max(0, i - 3), i, (), generator=rng)), i) for i in range(1, n)]
    edges = torch.tensor([*pairs, (0, n - 1)] if (0, n - 1) not in pairs else pairs).t()
    x, edge_attr = torch.randn(n, 8, generator=rng), torch.randn(edges.size(1), 3, generator=rng)
    columns, twice = torch.cat([edges, edges.flip(0)], 1), torch.cat([edge_attr, edge_attr])
    return Data(x=x, edge_index=columns, edge_attr=twice)


def batches(count: int, stored: bool = True):
    graphs = [molecule(i) for i in range(4 * count)]
    yield from DataLoader([ToLineGraph()(g) for g in graphs] if stored else graphs, batch_size=4)


def arguments(batch, stored: bool = True, form: str | None = None) -> tuple:
    """x, edge_index, edge_attr, batch and, where it is stored, the line graph."""
    line_graph = LineGraph.from_data(batch) if stored else None
    if form is not None:
        prepare(line_graph, 2, 4, 4, form=form)
    return batch.x, batch.edge_index, batch.edge_attr, batch.batch, line_graph


def layer(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return {
        "conv": lambda: PLSTMConv(8, 8, 2, edge_dim=3, **options),
        "conv_D": lambda: PLSTMConv(8, 8, 2, edge_dim=3, mode="D", **options),
        "block": lambda: PLSTMBlock(8, 2, edge_dim=3, local="gin", **options),
        "model": lambda: PLSTM(8, 8, 2, 3, heads=2, edge_dim=3, readout="mean", **options),
        "sequence": lambda: PLSTMSequence(8, 2, **options),
        "grid": lambda: PLSTMGrid(8, 2, **options),
    }[name]()


def grads(out: torch.Tensor, tensors) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(out.square().sum(), list(tensors))


# -------------------------------------------------------------------- torch.compile


def calls(name: str, stored: bool):
    """Arguments of twelve calls, of other sizes each."""
    if name == "sequence":
        yield from ((torch.randn(2, n, 8),) for n in range(5, 17))
    elif name == "grid":
        yield from ((torch.randn(2, n, n % 3 + 2, 8),) for n in range(3, 15))
    elif name in ("plstm", "dag_scan"):
        for batch in batches(12):
            line_graph = LineGraph.from_data(batch).two_way()
            args = inputs(line_graph)
            x = torch.randn(line_graph.num_edges, 2, 3, dtype=torch.double, requires_grad=True)
            yield (*args, line_graph) if name == "plstm" else (x, args[4], line_graph)
    else:
        yield from (arguments(batch, stored) for batch in batches(12, stored))


@pytest.mark.parametrize(
    ("name", "stored", "backend"),
    [
        ("conv", True, "aot_eager"),
        ("conv", False, "aot_eager"),
        ("conv_D", True, "eager"),
        ("block", True, "aot_eager"),
        ("model", True, "aot_eager"),
        ("model", False, "eager"),
        ("sequence", False, "aot_eager"),
        ("grid", False, "eager"),
        ("plstm", True, "aot_eager"),
        ("dag_scan", True, "aot_eager"),
    ],
)
def test_compiles_over_a_loader(name, stored, backend):
    """Without preparing anything: nothing is compiled anew after the first few batches."""
    torch._dynamo.reset()
    function = {"plstm": lambda *a: plstm(*a), "dag_scan": lambda *a: dag_scan(*a)}.get(name)
    weights = None
    if function is None:
        function = layer(name)
        weights = list(function.parameters())
    counter = CompileCounterWithBackend(backend)
    compiled, counts = torch.compile(function, backend=counter), []
    for args in calls(name, stored):
        tensors = weights or [x for x in args if isinstance(x, torch.Tensor)]
        out, want = compiled(*args), function(*args)
        torch.testing.assert_close(out, want)
        for got, expected in zip(grads(out, tensors), grads(want, tensors)):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        counts.append(counter.frame_count)
    assert counts[8] == counts[-1] <= 40


@pytest.mark.parametrize("name", ["sequence", "grid"])
def test_known_grids_compile_as_one_graph(name):
    torch._dynamo.reset()
    module, x = layer(name), torch.randn(2, *(7, 5)[: 1 + (name == "grid")], 8)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="run the layer once on an input of this shape"):
        compiled(torch.randn(2, *(8, 9)[: x.dim() - 2], 8))
    torch._dynamo.reset()
    want = module(x)
    torch.testing.assert_close(compiled(x), want)


# -------------------------------------------------------------------- torch.export


def test_a_line_graph_is_a_pytree():
    *_, line_graph = arguments(next(batches(1)), form="auto")
    leaves, spec = pytree.tree_flatten(line_graph)
    assert all(isinstance(leaf, torch.Tensor) and leaf._base is None for leaf in leaves)
    assert pytree.tree_unflatten(leaves, spec) == line_graph
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
    layer("model")(*arguments(next(batches(1)))[:4], line_graph)  # looks, and adds nothing
    assert pytree.tree_structure(line_graph) == spec
    clone = pytree.tree_map(torch.clone, line_graph)
    assert clone != line_graph and clone.edge_index is not line_graph.edge_index
    for name in ("edge_index", "line_index", "edge_id", "opposite_id", "node_batch", "num_nodes"):
        torch.testing.assert_close(getattr(clone, name), getattr(line_graph, name))
    other = pytree.tree_map(str, line_graph)  # as PyTorch maps tensors to their dynamic shapes
    assert pytree.tree_structure(other) == spec and isinstance(pytree.tree_leaves(other)[0], str)
    args = inputs(clone.two_way())
    torch.testing.assert_close(plstm(*args, clone.two_way()), plstm(*args, line_graph.two_way()))


def exported(name: str, batch, form: str) -> tuple:
    """With the number of graphs, which a readout would take from the numbers of ``batch``."""
    args = arguments(batch, form=form)
    return (*args, batch.num_graphs) if name == "model" else args


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["conv", "conv_D", "model"])
def test_exports_with_a_line_graph_as_argument(name, strict):
    module, args = layer(name), exported(name, next(batches(1)), "auto")
    program = torch.export.export(module, args, strict=strict)
    torch.testing.assert_close(program.module()(*args), module(*args))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(*args), module(*args))


@pytest.mark.parametrize("name", ["conv", "model"])
def test_exported_programs_take_other_line_graphs(name):
    module = layer(name, form="levelwise")
    many = [exported(name, batch, "levelwise") for batch in batches(4)]
    shapes = ShapesCollection()
    for tensor in pytree.tree_leaves(many[0]):
        if isinstance(tensor, torch.Tensor):
            shapes[tensor] = [Dim.AUTO] * tensor.dim()
    program = torch.export.export(module, many[0], dynamic_shapes=shapes).module()
    for args in many:
        torch.testing.assert_close(program(*args), module(*args))


def test_export_names_what_to_prepare():
    args = arguments(next(batches(1)))
    with pytest.raises(ValueError, match=r"plstm_graph.ops.prepare\(line_graph"):
        torch.export.export(layer("conv"), args, strict=False)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("sequence", (2, 11, 8), {}),
        ("sequence", (2, 11, 8), {"form": "chunkwise"}),
        ("grid", (2, 6, 3, 8), {}),
        ("grid", (2, 6, 3, 8), {"form": "gating"}),
    ],
)
def test_grids_export(name, shape, options):
    module, x = layer(name, **options), torch.randn(shape)
    program = torch.export.export(module, (x,), strict=False).module()
    torch.testing.assert_close(program(2 * x), module(2 * x))


# -------------------------------------------------------------------- torch.func


def cases(name: str) -> tuple:
    if name in ("sequence", "grid"):
        return (torch.randn(2, *(6, 3)[: 1 + (name == "grid")], 8),)
    return arguments(next(batches(1)))


NAMES = ["conv", "conv_D", "block", "model", "sequence", "grid"]


@pytest.mark.parametrize("name", NAMES)
def test_func_grad(name):
    module, args = layer(name), cases(name)
    params = dict(module.named_parameters())

    def loss(params, *args):
        return functional_call(module, params, args).square().sum()

    got = grad(loss)(params, *args)
    for a, b in zip(got.values(), grads(module(*args), params.values())):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_ensembles(name):
    """vmap over parameters, and over their gradients."""
    modules, args = [copy.deepcopy(layer(name)) for _ in range(3)], cases(name)
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    state = stack_module_state(modules)

    def loss(state):
        return functional_call(modules[0], state, args).square().sum()

    outs = vmap(lambda state: functional_call(modules[0], state, args))(state)
    derivatives = vmap(grad(loss))(state[0])
    for i, module in enumerate(modules):
        want = module(*args)
        torch.testing.assert_close(outs[i], want, rtol=1e-4, atol=1e-4)
        for a, b in zip(derivatives.values(), grads(want, module.parameters())):
            torch.testing.assert_close(a[i], b, rtol=1e-3, atol=1e-3)


def operators():
    graph = ZOO["two_way_molecules"]()
    args = [x.detach() for x in inputs(graph)]
    x = torch.randn(graph.num_edges, 2, 3, dtype=torch.double)
    factored = Factored(args[3], args[5])
    return {
        "plstm": (lambda d: plstm(*args[:6], d, graph), args[6]),
        "dense": (lambda d: plstm(*args[:6], d, graph, form="dense"), args[6]),
        "factored": (lambda s: plstm(*args[:3], s, factored, *args[5:], graph), args[3]),
        "dag_scan": (lambda x: dag_scan(x, args[4], graph), x),
        "gating_matrix": (lambda d: gating_matrix(*args[3:6], d, graph), args[6]),
    }


@pytest.mark.parametrize("name", ["plstm", "dense", "factored", "dag_scan", "gating_matrix"])
def test_operators_in_func(name):
    function, x = operators()[name]
    many = torch.stack([x, 2 * x, -x])
    torch.testing.assert_close(vmap(function)(many), torch.stack([*map(function, many)]))
    leaf = x.clone().requires_grad_()
    want = grads(function(leaf), [leaf])[0]
    torch.testing.assert_close(grad(lambda x: function(x).square().sum())(x), want)
    with pytest.raises(NotImplementedError, match=r"torch.func.vjp or jacrev, or form='naive'"):
        jvp(function, (x,), (x,))
    if name in ("plstm", "dense", "factored"):
        with pytest.raises(NotImplementedError, match=r"form='naive'.*create_graph=True"):
            grad(lambda x: grad(lambda x: function(x).square().sum())(x).square().sum())(x)
        leaf = x.clone().requires_grad_()
        with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError):
            function(torch.autograd.forward_ad.make_dual(leaf, x))


def test_what_the_errors_advise():
    graph = ZOO["two_way_tree"]()
    args = [x.detach() for x in inputs(graph)]

    def loss(scale, form):
        return plstm(scale * args[0], *args[1:], graph, form=form).square().sum()

    one = torch.ones((), dtype=torch.double)
    want = 2 * loss(one, "walk")
    torch.testing.assert_close(hessian(lambda s: loss(s, "naive"))(one), want)
    torch.testing.assert_close(jvp(lambda s: loss(s, "naive"), (one,), (one,))[1], want)
    torch.testing.assert_close(jacrev(lambda s: loss(s, "auto"))(one), want)


def test_vmap_over_features_needs_a_line_graph():
    module, (x, edge_index, edge_attr, batch, graph) = layer("conv"), cases("conv")
    many = torch.stack([x, 2 * x])
    with pytest.raises(NotImplementedError, match="pass it as line_graph="):
        vmap(lambda x: module(x, edge_index, edge_attr, batch))(many)
    out = vmap(lambda x: module(x, edge_index, edge_attr, batch, graph))(many)
    torch.testing.assert_close(out[1], module(2 * x, edge_index, edge_attr, batch, graph))
