"""Contributions of atoms and bonds, and the files that show them."""

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from plstm_graph.molecules import (
    ExplainOptions,
    InputError,
    Predictor,
    TrainOptions,
    explain,
    train,
)
from plstm_graph.molecules.contributions import Recorder, explain_molecule
from plstm_graph.molecules.graphs import molecule, parse_smiles, seed_of
from tests.molecules.conftest import TINY

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.fixture(scope="module")
def model(data_file, tmp_path_factory, silence):
    out = tmp_path_factory.mktemp("runs") / "model"
    options = {"target_column": "size,ring", "split": ("random",), "layers": 2, "epochs": 4}
    train(TrainOptions(input=str(data_file), out=str(out), **{**TINY, **options}), silence)
    return out


@pytest.fixture(scope="module")
def written(model, tmp_path_factory, silence):
    out = tmp_path_factory.mktemp("pictures") / "new"
    smiles = ["OCC", ASPIRIN, "C1CC", "C"]
    explain(ExplainOptions(model=str(model), smiles=smiles, out=str(out)), silence)
    return out, json.loads((out / "explanations.json").read_text())


def test_contributions_are_gradients_times_inputs(model):
    """By finite differences: the prediction, where the encoding of one atom or bond is scaled."""
    predictor = Predictor.load(model, 1, "cpu")
    mol = parse_smiles(ASPIRIN)
    found = explain_molecule(predictor, mol)
    graph = molecule(mol)
    seeds = np.array([seed_of(graph.smiles)], dtype=np.uint64)
    batch, net, step = predictor.batch([graph], seeds, 0), predictor.nets[0], 1e-5

    def change(encoder, rows):
        def scaled(factor):
            handle = encoder.register_forward_hook(
                lambda _, __, out: out * _ones(len(out), rows, factor)
            )
            with torch.no_grad():
                value = predictor.readable(net(batch), 0)[0]
            handle.remove()
            return value

        return (scaled(1 + step) - scaled(1 - step)) / (2 * step)

    def _ones(count, rows, factor):
        ones = torch.ones(count, 1, dtype=torch.double)
        ones[rows] = factor
        return ones

    for atom in (0, 3, 7):
        expected = change(net.core.node_encoder, [atom]).numpy()
        assert found.atoms[:, atom] == pytest.approx(expected, abs=1e-7)
    for bond in (0, 5):
        rows = [2 * bond, 2 * bond + 1]
        expected = change(net.core.edge_encoder, rows).numpy()
        assert found.bond_values[:, bond] == pytest.approx(expected, abs=1e-7)


def test_gates_are_means_of_gating_matrices(model):
    predictor = Predictor.load(model, 3, "cpu")
    found = explain_molecule(predictor, parse_smiles("C1CC1CO"))
    n = len(found.order)
    assert found.gates.shape == (n, n) and (found.gates >= 0).all()
    assert (np.diag(found.gates) > 0).all()  # the direct term
    assert (found.gates > 0).all()  # one layer joins all atoms of a molecule
    others = found.gates[np.arange(n) != 2, 2]
    assert found.taken[2] == pytest.approx(others.mean())
    i, j = found.bonds[1]
    assert found.exchanged[1] == pytest.approx((found.gates[i, j] + found.gates[j, i]) / 2)
    with Recorder(predictor.nets[0]) as seen:
        predictor.nets[0](predictor.batch([molecule(parse_smiles("CO"))], np.array([1], "u8"), 0))
    assert len(seen.layers) == 2
    assert not any(module._forward_hooks for module in predictor.nets[0].modules())


def test_files(written):
    out, found = written
    assert [one["number"] for one in found] == [1, 2, 4]  # the third cannot be read
    assert [one["input"] for one in found] == ["OCC", ASPIRIN, "C"]
    assert found[0]["smiles"] == "CCO"
    assert [atom["index_in_input"] for atom in found[0]["atoms"]] == [2, 1, 0]
    for one in found:
        assert set(one["targets"]) == {"size", "ring"}
        pictures = [one["gating"]["pictures"], *(t["pictures"] for t in one["targets"].values())]
        for svg, png in pictures:
            assert ElementTree.parse(out / svg).getroot().tag.endswith("svg")
            assert (out / png).read_bytes()[:4] == b"\x89PNG"
        for target in one["targets"].values():
            assert len(target["atoms"]) == len(one["atoms"])
            assert len(target["bonds"]) == len(one["bonds"])
            assert all(math.isfinite(value) for value in target["atoms"] + target["bonds"])


def test_contributions_belong_to_the_molecule(model):
    predictor = Predictor.load(model, 2, "cpu")
    one, two = (explain_molecule(predictor, parse_smiles(s)) for s in ("OCC(F)Cl", "C(O)C(Cl)F"))
    assert np.array_equal(one.atoms, two.atoms) and np.array_equal(one.gates, two.gates)


def test_a_file_and_one_target(model, data_file, tmp_path, silence):
    options = {"model": str(model), "out": str(tmp_path / "new"), "input": str(data_file)}
    found = explain(ExplainOptions(**options, target="size", most=3), silence)
    assert len(found) == 3 and set(found[0]["targets"]) == {"size"}
    with pytest.raises(InputError, match="expected target out of 'size', 'ring', got 'weight'"):
        explain(ExplainOptions(**options, target="weight"), silence)
    with pytest.raises(InputError, match="none that can be read"):
        explain(ExplainOptions(model=str(model), smiles=["C1CC"]), silence)
