"""Data sets and golden vectors beside the checkout; tests that need them skip elsewhere."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "golden"
DATA = SHARED / "data"

needs_shared = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="needs the folder 'shared' with golden vectors beside the checkout"
)
