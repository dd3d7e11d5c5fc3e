from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """An empty data root for the session; caches made in one test serve the next."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def shared_data():
    """Raw files of the benchmarks, where they lie beside the checkout."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the checkout: benchmarks are not downloaded in tests")
    return folder
