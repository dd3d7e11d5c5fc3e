import csv

import pytest
from rich.console import Console

from plstm_graph.molecules.console import Voice, quiet

HEADS = ("C", "O", "N", "F", "Cl", "c1ccccc1", "C1CC1", "C1CCC1", "c1ccoc1", "C1CCNCC1")
TINY = {"hidden": 8, "layers": 1, "heads": 2, "epochs": 3, "batch_size": 16, "accelerator": "cpu",
        "orientations": 2, "lr": 0.01}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def no_notices():
    quiet()


@pytest.fixture(scope="session")
def silence():
    return Voice(Console(quiet=True))


@pytest.fixture(scope="session")
def molecules():
    """60 small molecules."""
    return [head + "C" * length for head in HEADS for length in range(1, 7)]


@pytest.fixture(scope="session")
def data_file(molecules, tmp_path_factory):
    """They, with their size, gaps, classes, a part and a weight; one cannot be read."""
    path = tmp_path_factory.mktemp("data") / "molecules.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "smiles", "size", "holes", "ring", "rare", "kind", "part", "w"])
        for i, smiles in enumerate(molecules):
            size = sum(letter.isalpha() for letter in smiles)
            ring = int("1" in smiles)
            part = ("train", "train", "valid", "test")[i % 4]
            kind = "ring" if ring else ("carbon" if smiles[0] == "C" else "other")
            rare = int(part == "train" and i % 8 == 0)
            hole = "" if i % 3 == 0 else 1000.0 * size
            writer.writerow([f"m{i}", smiles, size, hole, ring, rare, kind, part, 1 + i % 2])
        writer.writerow(["bad", "C1CC", 3, 1, 0, 0, "other", "test", 1])
    return path
