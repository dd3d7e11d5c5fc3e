"""Predictions belong to their molecules, whatever the file, the writing and the neighbours."""

import csv
import gzip
import random
import shutil

import numpy as np
import pytest
import torch
from rdkit import Chem

from plstm_graph.molecules import (
    InputError,
    PredictOptions,
    Predictor,
    TrainOptions,
    predict,
    train,
)
from plstm_graph.molecules.graphs import molecule, parse_smiles
from plstm_graph.molecules.tables import Row
from tests.molecules.conftest import TINY


@pytest.fixture(scope="module")
def model(data_file, tmp_path_factory, silence):
    out = tmp_path_factory.mktemp("runs") / "model"
    options = {"target_column": "size,holes", "split": ("column", "part"), "ensemble": 2}
    train(TrainOptions(input=str(data_file), out=str(out), **{**TINY, **options}), silence)
    return out


@pytest.fixture(scope="module")
def asked(model, tmp_path_factory, silence):
    """A function from rows of text, or a file, to the rows of the predictions."""
    folder = tmp_path_factory.mktemp("predicted")

    def ask(content, name="in.csv", **options):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        options = {"out": str(folder / "out.csv"), "orientations": 3, **options}
        predict(PredictOptions(model=str(model), input=str(path), **options), silence)
        with open(folder / "out.csv", newline="") as file:
            return list(csv.DictReader(file))

    return ask


def table(smiles):
    return "smiles\n" + "".join(f"{text}\n" for text in smiles)


def answer(row):
    return tuple(value for key, value in row.items() if key not in ("row", "smiles"))


def test_rows_in_order_and_bad_ones_empty(asked):
    rows = asked(table(["CCO", "C1CC", "c1ccccc1", "CC(", "CCO"]))
    assert [row["smiles"] for row in rows] == ["CCO", "C1CC", "c1ccccc1", "CC(", "CCO"]
    assert [row["row"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert set(answer(rows[1])) == set(answer(rows[3])) == {""}
    assert answer(rows[0]) == answer(rows[4]) != answer(rows[2])
    assert list(rows[0])[2:] == ["size", "size_spread", "holes", "holes_spread"]


def test_the_last_digit_does_not_depend_on_neighbours(asked, molecules):
    """Alone, in any order, in batches of any size, written in other words."""
    expected = {row["smiles"]: answer(row) for row in asked(table(molecules))}
    assert len(expected) == 60
    for seed, size in ((0, 1), (1, 7), (2, 256)):
        order = molecules * 2 + ["C" * 90, "bad"]
        random.Random(seed).shuffle(order)
        for row in asked(table(order), batch_size=size):
            if row["smiles"] in expected:
                assert answer(row) == expected[row["smiles"]]
    other = {text: Chem.MolToSmiles(Chem.MolFromSmiles(text), doRandom=True) for text in molecules}
    rows = asked(table(other.values()))
    assert [answer(row) for row in rows] == list(expected.values())


def test_a_tie_is_settled_by_the_molecule_alone(model, molecules):
    """With a coarse last digit that lies at a tie, batches would disagree; they do not."""
    predictor = Predictor.load(model, 2, "cpu")
    graphs = [molecule(parse_smiles(text)) for text in molecules[:12]]
    exact = predictor._summary([graphs[0]], _seeds(graphs[:1]), range(2))[0, 0, 0]
    predictor.unit = np.array([2 * exact, predictor.unit[1]])  # the value is half a unit
    alone, _ = predictor.predict(graphs[:1])
    found = {predictor.predict(graphs[:count])[0][0, 0] for count in range(2, 13)}
    assert found == {alone[0, 0]}


def _seeds(graphs):
    from plstm_graph.molecules.graphs import seed_of

    return np.array([seed_of(graph.smiles) for graph in graphs], dtype=np.uint64)


def test_mean_and_spread(model, molecules):
    predictor = Predictor.load(model, 5, "cpu")
    graphs = [molecule(parse_smiles(text)) for text in molecules[:4]]
    samples = predictor.samples_of(graphs, _seeds(graphs), range(2))
    assert samples.shape == (10, 4, 2)  # orientations times members
    mean, spread = predictor.predict(graphs)
    assert np.abs(mean - samples.mean(0)).max() <= predictor.unit.max()
    assert np.abs(spread - samples.std(0, ddof=1)).max() <= predictor.unit.max()
    assert (spread > 0).any()
    # Ring molecules differ from one orientation to the next.
    one = Predictor.load(model, 1, "cpu")
    one.nets, one.samples = one.nets[:1], 1
    assert np.isnan(one.predict(graphs, [0])[1]).all()


def test_formats_agree(asked, molecules):
    texts = molecules[:9]
    expected = [answer(row) for row in asked(table(texts))]
    smi = "".join(f"{text} name\n" for text in texts)
    assert [answer(row) for row in asked(smi, "in.smi")] == expected
    assert [answer(row) for row in asked(gzip.compress(smi.encode()), "in.smi.gz")] == expected
    utf16 = table(texts).encode("utf-16")
    assert [answer(row) for row in asked(utf16)] == expected
    sdf = "".join(Chem.MolToMolBlock(Chem.MolFromSmiles(text)) + "$$$$\n" for text in texts)
    rows = asked(sdf + "x\n\n\nbroken\nM  END\n$$$$\n", "in.sdf")
    assert [answer(row) for row in rows[:-1]] == expected and set(answer(rows[-1])) == {""}


def test_parquet(asked, molecules, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [*molecules[:9], None]
    parquet.write_table(pyarrow.table({"smiles": texts}), tmp_path / "in.parquet")
    rows = asked((tmp_path / "in.parquet").read_bytes(), "in.parquet")
    expected = [answer(row) for row in asked(table(molecules[:9]))]
    assert [answer(row) for row in rows[:-1]] == expected and set(answer(rows[-1])) == {""}


def test_kept_columns_and_names_that_clash(asked):
    text = "id,size,smiles\na,big,CCO\nb,,CC\n"
    rows = asked(text, keep="id,size")
    assert [row["id"] for row in rows] == ["a", "b"] and rows[0]["size"] == "big"
    assert float(rows[0]["size_predicted"])
    with pytest.raises(InputError, match="expected a column 'none'"):
        asked(text, keep="none")


def test_blank_rows_stay_rows(asked):
    rows = asked("CCO ethanol\n\nnonsense\nc1ccccc1\n\n", "in.smi")
    assert [row["smiles"] for row in rows] == ["CCO", "", "nonsense", "c1ccccc1"]


def test_workers_do_not_change_the_file(asked, molecules):
    text = table([*molecules, "bad"])
    assert asked(text, workers=2, batch_size=8) == asked(text)


def test_what_cannot_be_predicted(model, tmp_path, silence):
    path = tmp_path / "in.csv"
    cases = {
        "smiles,a\nCCO,1\nCCO,1,2\n": "got 3 in row 2 .line 3.",
        "smiles\n": "a header only",
        "a,b\n1,2\n": "expected a column of SMILES",
    }
    for text, message in cases.items():
        path.write_text(text)
        options = {"model": str(model), "input": str(path), "out": str(tmp_path / "out.csv")}
        with pytest.raises(InputError, match=message):
            predict(PredictOptions(**options), silence)
    path.write_text("smiles\nCCO\n")
    with pytest.raises(InputError, match="another file than the input"):
        predict(PredictOptions(**{**options, "out": str(path)}), silence)
    assert list(tmp_path.iterdir()) == [path]


BREAK = {
    "no model": (lambda m: shutil.rmtree(m), "which does not exist"),
    "no config": (lambda m: (m / "model" / "model.json").unlink(), "has not finished"),
    "config cut": (lambda m: _cut(m / "model" / "model.json"), "as plstm-graph train wrote it"),
    "config empty": (lambda m: (m / "model" / "model.json").write_text("{}"), "wrote it"),
    "config of lists": (lambda m: (m / "model" / "model.json").write_text("[]"), "wrote it"),
    "newer version": (lambda m: _change(m, '"version": 1', '"version": 9'), "update plstm-graph"),
    "older version": (lambda m: _change(m, '"version": 1', '"version": 0'), "train again"),
    "weights missing": (lambda m: (m / "model" / "member_01.pt").unlink(), "copy the whole folder"),
    "weights cut": (lambda m: _cut(m / "model" / "member_01.pt"), "is broken or holds more"),
    "weights of text": (lambda m: (m / "model" / "member_01.pt").write_text("hi"), "is broken"),
    "other width": (lambda m: _change(m, '"hidden": 8', '"hidden": 16'), "got others"),
    "outside": (lambda m: _change(m, "member_01.pt", "../member_01.pt"), "expected file names"),
    "other files": (lambda m: (shutil.rmtree(m), m.mkdir()), "which holds no model"),
    "older checkpoint": (
        lambda m: (shutil.rmtree(m), m.mkdir(), (m / "best.ckpt").write_text("")),
        "which an older version wrote",
    ),
}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def _change(model, old, new):
    path = model / "model" / "model.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("change, message", BREAK.values(), ids=BREAK)
def test_broken_models(change, message, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(InputError, match=message):
        Predictor.load(tmp_path / "model")


def test_older_checkpoints(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "plstm.ckpt")
    with pytest.raises(InputError, match="checkpoints of older versions hold code"):
        Predictor.load(tmp_path / "plstm.ckpt")


def test_a_moved_model_predicts_the_same(asked, model, tmp_path, molecules):
    shutil.copytree(model / "model", tmp_path / "elsewhere")
    first, second = Predictor.load(model, 2), Predictor.load(tmp_path / "elsewhere", 2)
    graphs = [molecule(parse_smiles(text)) for text in molecules[:5]]
    for one, two in zip(first.predict(graphs), second.predict(graphs)):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_read_no_faster_than_they_are_predicted(
    workers, model, tmp_path, silence, monkeypatch
):
    """So the memory does not grow with the file: a few batches are all that is held."""
    from plstm_graph.molecules import prediction

    read, ahead = [0], []

    class Counting:
        notes, path = (), tmp_path / "in.smi"

        def __iter__(self):
            for number in range(1, 161):
                read[0] = number
                yield Row(number, "CCO", {})

    monkeypatch.setattr(prediction, "open_table", lambda *_, **__: Counting())
    options = {"model": str(model), "input": "in.smi", "out": str(tmp_path / "out.csv")}
    options = PredictOptions(**options, batch_size=8, orientations=1, workers=workers)
    assert predict(options, silence, lambda done: ahead.append(read[0] - done))["rows"] == 160
    assert len(ahead) == 20 and max(ahead) <= 8 * 2 * workers
