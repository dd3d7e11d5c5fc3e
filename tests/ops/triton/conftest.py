"""Kernel tests run on a GPU where there is one, and in Triton's interpreter elsewhere."""

import pytest
import torch

from plstm_graph.ops.triton.common import unavailable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def device():
    """Where kernels can run."""
    reason = unavailable(DEVICE)
    if reason is not None:
        pytest.skip(reason)
    return DEVICE


@pytest.fixture(autouse=True)
def poisoned():
    """Uninitialised memory is NaN: a place that no kernel writes shows."""
    # The filling is part of the deterministic mode; operations without one only warn.
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
