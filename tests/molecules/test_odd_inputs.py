"""Every odd input ends in a result or in an error that names the cause; none in a traceback."""

import re

import numpy as np
import pytest
from rich.console import Console

from plstm_graph.molecules import InputError, TrainOptions
from plstm_graph.molecules.batches import collate
from plstm_graph.molecules.cli import main
from plstm_graph.molecules.console import Voice
from plstm_graph.molecules.data import load
from plstm_graph.molecules.task import Task
from tests.molecules.odd_inputs import CASES

QUIET = Voice(Console(quiet=True))


def everything_before_training(path, out, **options):
    """Reads, splits, scales, and makes one batch of all molecules."""
    found = TrainOptions(input=str(path), out=str(out), **{"target_column": "y", **options})
    data = load(found, QUIET)
    for parts in data.splits(found, 0):
        rows = np.concatenate([parts[part].numpy() for part in parts])
        assert sorted(rows.tolist()) == list(range(len(data.rows)))
        task = Task(data.targets, data.weight, parts["train"].numpy(), found.class_balance)
        assert task.y.isfinite().all() and task.y.abs().max() < 1e4 and np.isfinite(task.std).all()
    batch = collate(data.graphs, data.seeds)
    assert batch.size == len(data.rows) and int(batch.batch.max()) == batch.size - 1
    return data


def test_there_are_many():
    assert len(CASES) >= 200
    names = [name for name, *_ in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "file, content, options, outcome",
    [pytest.param(*rest, id=name) for name, *rest in CASES],
)
def test_odd_input(file, content, options, outcome, tmp_path):
    path = tmp_path / file
    path.write_bytes(content)
    if isinstance(outcome, str):
        with pytest.raises(InputError) as error:
            everything_before_training(path, tmp_path / "run", **options)
        message = str(error.value)
        assert re.search(outcome, message, re.DOTALL), message
        assert message.startswith(("expected", "argument"))
    else:
        data = everything_before_training(path, tmp_path / "run", **options)
        assert len(data.rows) == outcome
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_is_named(tmp_path):
    path = tmp_path / "data.csv"
    rows = "".join(f"C{'C' * i}c1cccc{'n' if i % 2 else 'c'}1,{i}\n" for i in range(8))
    path.write_text(f"smiles,y\n{rows}C1CC,1\n,2\nC1CC1,\nC1CCC1,3\nCCO extra,4\n")
    notes = "\n".join(everything_before_training(path, tmp_path / "run").notes)
    assert "3 of 13 molecules cannot be read and are left out: row 9 (line 10) 'C1CC': " in notes
    assert "row 10 (line 11) '': it is empty, row 13 (line 14) 'CCO extra': text follows" in notes
    assert "rows left out: 1 (no target, or weight 0)" in notes
    assert "1 of 10 targets are gaps" in notes


OPTIONS = {
    "epochs 0": (["--epochs", "0"], "expected epochs as a number of 1 or more, got 0"),
    "epochs a word": (["--epochs", "many"], "expected a whole number, got 'many'"),
    "epochs 1.5": (["--epochs", "1.5"], "expected a whole number, got '1.5'"),
    "lr negative": (["--lr=-1"], "expected lr as a number from 1e-09 to 1, got -1"),
    "lr nan": (["--lr", "nan"], "expected lr as a number from"),
    "lr inf": (["--lr", "inf"], "expected lr as a number from"),
    "dropout 1": (["--dropout", "1"], "expected dropout as a number from 0 to 0.95"),
    "hidden 10": (["--hidden", "10"], "expected hidden as a multiple of heads (4), got 10; use 8"),
    "heads 0": (["--heads", "0"], "expected heads as a number of 1 or more"),
    "layers -1": (["--layers=-1"], "expected layers as a number of 1 or more"),
    "batch size 0": (["--batch-size", "0"], "expected batch_size as a number of 1 or more"),
    "ensemble 0": (["--ensemble", "0"], "expected ensemble as a number of 1 or more"),
    "seeds word": (["--seeds", "a"], "expected seeds as integers"),
    "seeds negative": (["--seeds=-1"], "expected seeds as integers"),
    "seeds twice": (["--seeds", "1,1"], "expected different seeds"),
    "seeds empty": (["--seeds", ""], "expected seeds as integers"),
    "test share": (["--test", "1.5"], "expected test as a number from"),
    "shares": (["--test", "0.5", "--valid", "0.45"], "expected valid + test of at most 0.9"),
    "orientation": (["--orientation", "up"], "invalid choice: 'up'"),
    "accelerator": (["--accelerator", "abacus"], "invalid choice: 'abacus'"),
    "unknown option": (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
    "no value": (["--epochs"], "expected one argument"),
    "out is a file": (["--out", "DATA"], "expected out as a folder, got the file"),
    "out is full": (["--out", "FULL"], "which holds other files; choose another --out"),
    "input missing": (["--input", "none.csv"], "none.csv, which does not exist"),
    "input a folder": (["--input", "FULL"], "got the folder"),
}


@pytest.mark.parametrize("args, message", OPTIONS.values(), ids=OPTIONS)
def test_odd_options(args, message, tmp_path, capsys):
    path, full = tmp_path / "data.csv", tmp_path / "full"
    path.write_bytes(CASES[0][2])
    full.mkdir()
    (full / "thesis.tex").write_text("")
    args = [{"DATA": str(path), "FULL": str(full)}.get(arg, arg) for arg in args]
    base = ["--input", str(path), "--target-column", "y", "--out", str(tmp_path / "run")]
    assert main(["train", *base, *args]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(full.iterdir()) == [full / "thesis.tex"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "expected input; pass --input"),
        (["predict"], "expected model; pass --model"),
        (["predict", "--model", "none", "--input", "x.csv"], "none, which does not exist"),
        (["explain", "--model", "m"], "expected smiles or input"),
        (["explain", "--model", "m", "--smiles", "C", "--input", "x"], "expected smiles or input"),
    ],
)
def test_odd_commands(args, message, capsys):
    assert main(args) == 2
    assert message in capsys.readouterr().err
