"""The command line: help for each option, the story of a user, and what the package asks for."""

import csv
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from plstm_graph.molecules.cli import COMMANDS, main
from tests.molecules.conftest import TINY


def environment():
    """In which a process in another folder finds this package."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def words(options):
    return [w for key, value in options.items() for w in (f"--{key.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option_in_one_sentence(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for item in fields(COMMANDS[name][0]):
        sentence = item.metadata["help"]
        assert sentence in text and f"--{item.name.replace('_', '-')}" in text
        assert re.fullmatch(r"[A-Z][^.]*(\.[^. ][^.]*)*\.", sentence), sentence


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    assert "plstm-graph train --input" in capsys.readouterr().out


def test_train_predict_explain(data_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "--input", str(data_file), "--target-column", "size,holes", "--out", "run"]
    assert main([*train, "--split", "column", "part", *words(TINY)]) == 0
    printed = capsys.readouterr().out
    assert "1 of 61 molecules cannot be read and are left out: row 61 (line 62) 'C1CC'" in printed
    assert "all targets" in printed and "model_card.md" in printed
    assert "--split column part" in (tmp_path / "run" / "model_card.md").read_text()
    assert main(["predict", "--model", "run", "--input", str(data_file), "--keep", "name"]) == 0
    assert "1 of 61 molecules cannot be read" in capsys.readouterr().out
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 61 and rows[60]["name"] == "bad" and rows[60]["size"] == ""
    assert main(["explain", "--model", "run", "--smiles", "CCO", "--out", "pictures"]) == 0
    assert (tmp_path / "pictures" / "molecule_1_size.svg").is_file()
    assert not (tmp_path / "Traceback").exists()


def test_importing_the_package_needs_none_of_its_packages():
    code = (
        "import sys\n"
        "for name in ('rdkit', 'lightning', 'torchmetrics', 'sklearn', 'matplotlib', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        "import plstm_graph, plstm_graph.molecules\n"
        "from plstm_graph.molecules.cli import main\n"
        "assert main(['predict', '--model', 'm', '--input', 'x']) == 2\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["rdkit", "lightning"])
def test_a_missing_package_is_named(name, data_file, tmp_path):
    args = ["train", "--input", str(data_file), "--target-column", "size", "--out", "run"]
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"
        f"from plstm_graph.molecules.cli import main\nsys.exit(main({[*args, *words(TINY)]!r}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install 'plstm-graph[molecules]'" in done.stderr and name in done.stderr
