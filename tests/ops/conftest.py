"""Chunks of three edges, so that the small graphs of the zoo have several."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from plstm_graph.ops.forms import chunks


@contextmanager
def chunks_of(size: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "SMALLEST", size)
        patch.setattr(chunks, "LARGEST", size)
        yield


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with chunks_of(3):
        yield


@pytest.fixture
def threads():
    """Sets the number of threads of torch."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
