r"""GPU kernels in Triton.

Importing this package needs neither triton nor a GPU: kernel modules (:mod:`.segment_scan`,
:mod:`.level_scan`, ...) import triton, and are themselves imported where a kernel is launched.
:mod:`.common` says whether they can run, :mod:`.tables` holds what they know of a graph,
:mod:`.aot` compiles every shipped configuration without a GPU.
"""
