"""Bytes that interpreted kernels load and store."""

from contextlib import contextmanager

import numpy as np


@contextmanager
def counted():
    """A dictionary {"load": bytes, "store": bytes} that fills while kernels are interpreted."""
    from triton.runtime.interpreter import InterpreterBuilder

    total = {"load": 0, "store": 0}
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def size(pointers, mask):
        return int(np.count_nonzero(mask.data)) * pointers.get_element_ty().primitive_bitwidth // 8

    def counting_load(self, ptrs, mask, *rest):
        total["load"] += size(ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def counting_store(self, ptrs, value, mask, *rest):
        total["store"] += size(ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    InterpreterBuilder.create_masked_load = counting_load
    InterpreterBuilder.create_masked_store = counting_store
    try:
        yield total
    finally:
        InterpreterBuilder.create_masked_load = load
        InterpreterBuilder.create_masked_store = store
