from pathlib import Path

import pytest

from experiments.fitting import quiet


@pytest.fixture(scope="session", autouse=True)
def no_notices():
    quiet()


@pytest.fixture(scope="session")
def csv_file(tmp_path_factory):
    """120 small molecules with their number of heavy atoms, and one bad row."""
    heads = ("C", "O", "N", "F", "Cl", "c1ccccc1", "C1CC1", "C1CCC1", "c1ccoc1", "C1CCNCC1")
    rows = [f"{head + 'C' * length}" for head in heads for length in range(1, 13)]
    path = tmp_path_factory.mktemp("csv") / "molecules.csv"
    lines = [f"{text},{sum(letter.isalpha() for letter in text)}" for text in rows]
    path.write_text("\n".join(["smiles,size", *lines, "C1CC,3"]) + "\n")
    return path


@pytest.fixture(scope="session")
def shared_data():
    """Raw files of the benchmarks, where they lie beside the checkout."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout: benchmarks are not downloaded in tests")
    return folder
