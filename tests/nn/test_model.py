"""PLSTMBlock and PLSTM: every option runs forward and backward, batches equal their parts."""

import copy

import pytest
import torch
from torch_geometric.nn import GCNConv, MessagePassing, SoftmaxAggregation, TransformerConv

from plstm_graph.nn import PLSTM, PLSTMBlock, SinusoidalDegree
from tests.nn.conftest import EDGES, edges_of, line_graph_of


def union_of_all():
    offset, edges, batch = 0, [], []
    for b, name in enumerate(EDGES):
        num_nodes, edge_index = edges_of(name)
        edges.append(edge_index + offset)
        batch += [b] * num_nodes
        offset += num_nodes
    edge_index = torch.cat(edges, 1)
    x, edge_attr = torch.randn(offset, 5), torch.randn(edge_index.size(1), 3)
    return x, edge_index, edge_attr, torch.tensor(batch)


def check(model, *args, shape, **kwargs):
    out = model(*args, **kwargs)
    assert out.shape == shape and out.isfinite().all()
    out.square().sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters())
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "D", "direction": "reverse"},
        {"direction": "two_way", "direction_offset": True},
        {"local": "gin"},
        {"local": lambda channels, edge_dim: GCNConv(channels, channels)},
        {
            "local": lambda channels, edge_dim: TransformerConv(
                channels, channels, edge_dim=edge_dim
            )
        },
        {"local": TransformerConv(8, 8, edge_dim=3)},
        {"ffn_ratio": 0},
        {"ffn_ratio": 2.5, "act": "relu", "dropout": 0.5},
        *(
            {"norm": norm}
            for norm in (
                None,
                "layer_norm",
                "rms_norm",
                "batch_norm",
                "graph_norm",
                "BatchNorm",
                "pair_norm",
            )
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("edges", [False, True], ids=["nodes", "edges"])
def test_block(options, edges):
    if options.get("mode") is None and isinstance(options.get("local"), MessagePassing):
        if not edges:
            pytest.skip("a module of fixed edge_dim")
        options = copy.deepcopy(options)
    x, edge_index, edge_attr, batch = union_of_all()
    block = PLSTMBlock(8, 2, edge_dim=3 if edges else None, **options)
    x = torch.randn(x.size(0), 8)
    out = check(block, x, edge_index, edge_attr if edges else None, batch=batch, shape=x.shape)
    block.reset_parameters()
    block.eval()
    assert not torch.allclose(block(x, edge_index, edge_attr if edges else None, batch=batch), out)


def test_block_is_residual():
    x, edge_index, _, _ = union_of_all()
    x = torch.randn(x.size(0), 8)
    block = PLSTMBlock(8, 2)
    for lin in (block.conv.lin_out, block.ffn[-1]):
        torch.nn.init.zeros_(lin.weight), torch.nn.init.zeros_(lin.bias)
    assert torch.equal(block(x, edge_index), x)


@pytest.mark.parametrize(
    "readout", [None, "mean", "sum", "max", SoftmaxAggregation(learn=True)], ids=str
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modes": "P", "directions": "fr", "orientation": "degree"},
        {"directions": "reverse", "head_layers": 1},
        {"degree_encoding": "dag", "dropout": 0.1},
        {"degree_encoding": "undirected", "local": "gin"},
        {"transition_node": "all", "normalization": "target", "init": "grid"},
    ],
    ids=str,
)
def test_model(options, readout):
    x, edge_index, edge_attr, batch = union_of_all()
    model = PLSTM(5, 8, 3, 2, heads=2, edge_dim=3, readout=copy.deepcopy(readout), **options)
    size = len(EDGES)
    shape = (x.size(0) if readout is None else size, 2)
    out = check(model, x, edge_index, edge_attr, batch, batch_size=size, shape=shape)
    model.eval()
    whole = model(x, edge_index, edge_attr, batch, batch_size=size)
    again = copy.deepcopy(model)
    torch.testing.assert_close(again(x, edge_index, edge_attr, batch, batch_size=size), whole)
    model.reset_parameters()
    assert not torch.allclose(model(x, edge_index, edge_attr, batch, batch_size=size), out)


@pytest.mark.parametrize("options", [{}, {"degree_encoding": "dag", "local": "gin"}], ids=str)
@pytest.mark.parametrize("readout", [None, "mean", "sum", "max"])
def test_batch_equals_its_parts(readout, options):
    # By the index, as the line graphs of the parts are pruned.
    options = {"orientation": "index", **options}
    model = PLSTM(5, 8, 4, 2, heads=2, edge_dim=3, readout=readout, **options).double()
    x, edge_index, edge_attr, batch = union_of_all()
    x, edge_attr = x.double(), edge_attr.double()
    whole = model(x, edge_index, edge_attr, batch, batch_size=len(EDGES))
    parts, nodes, edges = [], 0, 0
    for name in EDGES:
        n, index = edges_of(name)
        part = (x[nodes : nodes + n], index, edge_attr[edges : edges + index.size(1)])
        parts.append(model(*part, line_graph=line_graph_of(n, index)))
        nodes, edges = nodes + n, edges + index.size(1)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-8)


def test_encoders_and_lazy_widths():
    x, edge_index, edge_attr, batch = union_of_all()
    model = PLSTM(-1, 8, 2, 1, heads=2, edge_dim=-1, readout="sum")
    check(model, x, edge_index, edge_attr, batch, shape=(len(EDGES), 1))
    model = PLSTM(
        0,
        8,
        2,
        1,
        heads=2,
        node_encoder=torch.nn.Embedding(4, 8),
        edge_encoder=torch.nn.Embedding(3, 8),
    )
    x, edge_attr = torch.randint(4, (x.size(0),)), torch.randint(3, (edge_attr.size(0),))
    check(model, x, edge_index, edge_attr, shape=(x.size(0), 1))


def test_layers_alternate():
    f, r = ["forward"], ["reverse"]
    for model in (PLSTM(5, 8, 6, 1, directions="alternate"), PLSTM.paper(5, 96, 6)):
        assert [block.conv.mode for block in model.blocks] == ["P", "D"] * 3
        assert [block.conv.direction for block in model.blocks] == f * 2 + r * 2 + f * 2
    model = PLSTM(5, 8, 3, 1, heads=2, modes="P", directions="fr")
    assert [block.conv.direction for block in model.blocks] == f + r + f
    assert str(model) == "PLSTM(5, 8, 1, num_layers=3, modes='P')"


def test_reaches_all_descendants_in_one_layer():
    edge_index = torch.stack([torch.arange(30), torch.arange(1, 31)])
    x = torch.randn(31, 5, requires_grad=True)
    for directions, first in (("forward", 0), ("reverse", 30)):
        model = PLSTM(5, 8, 1, 1, heads=2, directions=directions, init="grid")
        (grad,) = torch.autograd.grad(model(x, edge_index)[30 - first].sum(), x)
        assert (grad.abs().sum(-1) > 0).all()


def test_published_size():
    model = PLSTM.paper(37, out_channels=2, edge_dim=4, readout="mean")
    assert len(model.blocks) == 4 and model.degree.kind == "undirected"
    assert all(block.conv.in_channels == 96 for block in model.blocks)
    assert sum(p.numel() for p in model.parameters()) < 300_000


@pytest.mark.parametrize("channels", [8, 10, 7])
def test_sinusoidal_degree(channels):
    graph = line_graph_of(*edges_of("star"))
    code = SinusoidalDegree(channels)(graph)
    assert code.shape == (5, channels)
    degrees = torch.tensor([4.0, 1, 1, 1, 1])
    torch.testing.assert_close(code[:, 0], degrees.sin())
    torch.testing.assert_close(code, SinusoidalDegree(channels)(graph.reverse()))
    code = SinusoidalDegree(channels, "dag")(graph)
    assert code.shape == (5, channels)
    assert torch.equal(code[1], code[2]) and not torch.equal(code[1], code[3])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"modes": "PX"}, "modes as a pattern of 'P' and 'D', got 'PX'"),
        ({"modes": ""}, "modes as a pattern"),
        ({"directions": "up"}, "directions to be 'alternate', .*letters a, t, f, r.* got 'up'"),
        ({"directions": ""}, "directions to be"),
        ({"degree_encoding": "in"}, "degree_encoding to be one of"),
        ({"local": "gat"}, "local to be 'gin'"),
        ({"local": GCNConv(8, 8)}, "one module for several layers"),
        ({"heads": 3}, "divisible by heads"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        PLSTM(5, 8, 2, 1, **options)


def test_edge_attr_that_nobody_asked_for():
    x, edge_index, edge_attr, _ = union_of_all()
    with pytest.raises(ValueError, match=r"no edge_attr.*edge_dim=3"):
        PLSTM(5, 8, 2, 1)(x, edge_index, edge_attr)
    with pytest.raises(ValueError, match="edge_attr with 3 channels"):
        PLSTM(5, 8, 2, 1, edge_dim=3)(x, edge_index)
