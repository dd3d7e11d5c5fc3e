"""The published layer, reproduced from its own weights: outputs and all gradients."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from plstm_graph import LineGraph
from plstm_graph.nn import PLSTMConv, export_published_weights, load_published_weights

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("PLSTM_GOLDEN_DIR", ROOT.parent / "shared" / "golden"))


def layer(mode: str, **kwargs) -> PLSTMConv:
    return PLSTMConv.paper(16, 16, 4, **{"mode": mode, "edge_dim": 8, **kwargs}).double()


@pytest.mark.parametrize("watched", [False, True], ids=["fused", "messages"])
@pytest.mark.parametrize("mode", ["P", "D"])
def test_golden_layer(mode, watched):
    path = GOLDEN / f"layer_{mode.lower()}.npz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    with np.load(path) as file:
        golden = {name: torch.from_numpy(file[name]) for name in file.files}
    weights = {name: value for name, value in golden.items() if name.startswith("w_")}
    conv = load_published_weights(layer(mode), weights)
    if watched:
        conv.register_message_forward_hook(lambda module, inputs, out: None)
    graph = LineGraph(golden["x"].size(0), golden["edge_index"], golden["line_index"])
    graph.is_multitree = mode == "D"  # the file's line edges are pruned already
    x, edge_attr = golden["x"].requires_grad_(), golden["edge_attr"].requires_grad_()
    out = conv(x, golden["edge_index"], edge_attr, line_graph=graph)
    (out * golden["cotangent"]).sum().backward()
    got = {"out": out, "grad_x": x.grad, "grad_edge_attr": edge_attr.grad}
    grads = export_published_weights(conv, grad=True)
    got |= {"grad" + name: value for name, value in grads.items()}
    assert {name for name in golden if name.startswith("gradw_")} <= set(got)
    for name, value in got.items():
        torch.testing.assert_close(value, golden[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("edge_dim", [None, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_round_trip(edge_dim, bias):
    one = layer("P", edge_dim=edge_dim, bias=bias)
    two = load_published_weights(
        layer("P", edge_dim=edge_dim, bias=bias), export_published_weights(one)
    )
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values()):
        assert torch.equal(a, b), name


def test_bad_weights():
    conv = layer("P")
    weights = export_published_weights(conv)
    with pytest.raises(ValueError, match=r"missing=\['w_out.bias'\]"):
        load_published_weights(conv, {k: v for k, v in weights.items() if k != "w_out.bias"})
    with pytest.raises(ValueError, match=r"w_query.weight of shape \[16, 16\], got \[16, 15\]"):
        load_published_weights(conv, weights | {"w_query.weight": torch.zeros(16, 15)})
    with pytest.raises(ValueError, match="lazy"):
        load_published_weights(PLSTMConv(-1, 16), weights)
    with pytest.raises(ValueError, match="transition_node"):
        load_published_weights(PLSTMConv(16, 16, transition_node="all"), weights)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"log_norm": True}, "log_norm=False"),
        ({"head_norm": False}, "head_norm=True"),
        ({"direction_offset": True}, "direction_offset=False"),
    ],
    ids=str,
)
def test_layers_that_are_not_the_published_one(options, message):
    with pytest.raises(ValueError, match=f"{message}.*PLSTMConv.paper"):
        export_published_weights(layer("P", **options))
