r"""GPU kernels in Triton.

:mod:`.walk` (any acyclic line graph, plain or factored transitions) and :mod:`.dense` (small
graphs, all on chip) are the layer as plain functions ``make_plan``, ``forward`` and ``backward``;
:mod:`.scan` is ``dag_scan`` as a differentiable operator. These modules and :mod:`.common`, which
says whether kernels can run, need neither triton nor a GPU to be imported: triton is imported
where a kernel is launched.
"""
