r"""``plstm``: checks, precision, and what is dealt with before a form computes.

States in and out become nodes and edges (:mod:`plstm_graph.ops.ports`), gates by their logarithms
are rescaled (:mod:`plstm_graph.ops.gauge`), a normalizer is one more column of values. What is left
is one recurrence, which the forms compute (:mod:`plstm_graph.ops.forms`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.dag.tracing import untraced
from plstm_graph.ops.autograd import propagate
from plstm_graph.ops.by_level import direct_term
from plstm_graph.ops.checks import (
    check_options,
    check_plstm,
    compute_dtype,
)
from plstm_graph.ops.choosing import choose, is_prepared
from plstm_graph.ops.forms import Problem
from plstm_graph.ops.forms.naive import naive_plstm
from plstm_graph.ops.gauge import COUNTING, gauge, normalize
from plstm_graph.ops.inputs import EdgeStates, Factored, Inputs, LogGate, Reflections, each, shaped
from plstm_graph.ops.ports import extended, taken, with_ports


class Options(NamedTuple):
    """What ``plstm`` does before and after a form: see there."""

    edge_query: Tensor | None = None
    normalizer: str | None = None
    stabilizer: str | None = None
    initial: EdgeStates | None = None
    return_state: Tensor | None = None

    @property
    def ports(self) -> bool:
        """Whether states come in or go out."""
        return self.initial is not None or self.return_state is not None


def plstm(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source: Tensor | LogGate,
    transition: Tensor | Factored | LogGate,
    mark: Tensor | LogGate,
    direct: Tensor | LogGate,
    line_graph: LineGraph,
    *,
    scale: float = 1.0,
    form: str = "auto",
    backend: str = "auto",
    edge_query: Tensor | None = None,
    update: Reflections | None = None,
    normalizer: str | None = None,
    stabilizer: str | None = None,
    initial: EdgeStates | None = None,
    return_state: Tensor | None = None,
) -> Tensor | tuple[Tensor, EdgeStates]:
    r"""Propagate along an acyclic line graph with a linear recurrence (arXiv 2506.11997).

    .. math::
        C_e = A_e \sum_{l = (e', e)} T_l C_{e'} + S_e\, k_{src(e)} v_{src(e)}^\top
        \qquad
        h_n = \sum_{e \to n} M_e C_e^\top q_n + D_n (q_n \cdot k_n) v_n

    Without an ``update`` A is the identity. All forms give the same values and gradients (first and
    second).

    Args:
        query, key: [N, H, K].
        value: [N, H, V].
        source, mark: [E, H]; rows as ``line_graph.edge_index``.
        transition: [L, H]; diagonal [L, H, K], which scales the rows of C; block [L, H, J, J], for
            J states on each edge, ``C_out[i] += sum_j T[i, j] C_in[j]``; rows as
            ``line_graph.line_index``. Or ``Factored(a, b)`` with a and b [E, H], for T_l =
            a[e_in] b[e_out], whose cost is that of the edges instead of the line edges.
        direct: [N, H].
        line_graph: the graph with its line graph.
        scale: a number that multiplies the queries, in the direct term too.
        form: ``"auto"`` (the fastest by :mod:`plstm_graph.ops.cost`), ``"naive"`` (the
            definition, slow), ``"levelwise"``, ``"walk"``, ``"dense"``, ``"chunkwise"``.
        backend: ``"auto"`` (see :mod:`plstm_graph.ops.choosing`), ``"torch"``, ``"triton"`` (for
            ``"walk"`` and ``"dense"``).
        edge_query: [N, H, K] what edges are read with, where it differs from ``query``, which the
            direct term reads. Default ``None``.
        update: :class:`~plstm_graph.ops.inputs.Reflections` A_e of the node where e starts, the
            delta rule. Default ``None``.
        normalizer: ``"max1"`` or ``"sum"``: the same recurrence with ones for values gives a
            denominator d_n, and h_n is divided by max(abs(d_n), 1) or by d_n; ``"norm"``: nothing
            is divided and the scale of a stabilizer is left out, for a norm of each head that
            follows. Default ``None``.
        stabilizer: ``"logsumexp"`` or ``"max"``: source, transition, mark and direct are
            :class:`~plstm_graph.ops.inputs.LogGate`, which may have any size: states are kept in
            units that a scan of the gates finds (:mod:`plstm_graph.ops.gauge`). Default ``None``.
        initial: states that come into edges, before their update. Default ``None``.
        return_state: [O] int64 edges whose states are returned, too. Default ``None``.

    With block transitions source and mark are [E, H, J]. In general there are J_S channels of
    values and J_M of results: source [E, H, J_S, J] with value [N, H, J_S, V], mark [E, H, J, J_M],
    and direct [N, H, J_S, J_M].

    Returns:
        [N, H, V], or [N, H, J_M, V] where the mark has that axis, in the dtype of ``value``; with
        ``return_state`` also the :class:`~plstm_graph.ops.inputs.EdgeStates`. float32 and float64
        compute in their own precision, bfloat16 and float16 in float32.

    Raises:
        ValueError: on a wrong shape, dtype, device, form or backend, on options that do not go
            together, and if the form or backend cannot run here.
    """
    inputs = Inputs(query, key, value, source, transition, mark, direct, update)
    options = Options(edge_query, normalizer, stabilizer, initial, return_state)
    check_plstm(inputs, line_graph, scale, form, backend, stabilizer)
    check_options(inputs, options, line_graph)
    arguments = inputs, options, line_graph, scale, form, backend
    if torch.compiler.is_compiling() and not _is_prepared(*arguments):
        return _run_eagerly(*arguments)
    return _run(*arguments)


def _run(
    inputs: Inputs, options: Options, line_graph: LineGraph, scale: float, form: str, backend: str
) -> Tensor | tuple[Tensor, EdgeStates]:
    dtype, channels = inputs.value.dtype, shaped(inputs.mark).dim() == 4
    with torch.autocast(inputs.value.device.type, enabled=False):
        inputs = general(inputs, line_graph)
        nodes, k = inputs.query.shape[::2]
        own_query, ports, m_node = inputs.query, None, None
        if options.edge_query is not None:
            inputs = inputs._replace(query=options.edge_query)
        if options.normalizer in COUNTING:
            ones = inputs.value.new_ones(*inputs.value.shape[:-1], 1)
            inputs = inputs._replace(value=torch.cat([inputs.value, ones], -1))
        if options.ports:
            inputs, ports = _with_ports(inputs, options, line_graph, scale)
            line_graph, own_query, scale = ports.line_graph, own_query * scale, 1.0
        if options.stabilizer is not None:
            gates = (inputs.source, inputs.transition, inputs.mark, inputs.direct)
            gates, _, m_node = gauge(*gates, line_graph, options.stabilizer)
            inputs = Inputs(*inputs[:3], *gates, inputs.update)
        own = None
        if options.edge_query is not None:
            rows = (own_query * scale, inputs.key, inputs.value, inputs.direct)
            own = direct_term(*(x[:nodes] for x in rows))
            inputs = inputs._replace(direct=torch.zeros_like(inputs.direct))
        out = compute(inputs, line_graph, scale, form, backend)
        states = None
        if options.return_state is not None:
            states = taken(out, nodes, ports, inputs.states, k)
            log_scale = None
            if m_node is not None:
                log_scale = m_node[nodes + ports.into :: inputs.states * k]
            states = EdgeStates(options.return_state, states, log_scale)
        out = out[:nodes] if ports is not None else out
        out = out if own is None else out + own
        out = normalize(out, options.normalizer, None if m_node is None else m_node[:nodes])
        out = (out if channels or out.dim() == 3 else out.squeeze(2)).to(dtype)
        return out if states is None else (out, states)


_run_eagerly = untraced(_run)


def compute(inputs: Inputs, line_graph: LineGraph, scale: float, form: str, backend: str) -> Tensor:
    """The recurrence alone, in the shapes of :class:`Inputs`, by a form."""
    if form == "naive":
        choose(form, _problem(inputs, line_graph, backend))
        return naive_plstm(inputs.to(compute_dtype(*inputs.tensors)), line_graph, scale)
    if inputs.factored and not _keeps_factors(inputs, line_graph):
        lines = inputs.transition.expand(line_graph.line_index)
        inputs = inputs._replace(transition=lines)
    problem, chosen = choose(form, _problem(inputs, line_graph, backend))
    if problem.backend == "torch":
        inputs = inputs.to(compute_dtype(*inputs.tensors))
    return propagate(inputs, scale, chosen, problem)


def _keeps_factors(inputs: Inputs, line_graph: LineGraph) -> bool:
    return inputs.update is None and line_graph.is_complete


def general(inputs: Inputs, line_graph: LineGraph) -> Inputs:
    """The inputs of ``plstm`` in the shapes of the forms: state channels where there are blocks,
    betas of edges. Differentiable."""
    query, key, value, source, transition, mark, direct, update = inputs
    if not isinstance(transition, Factored) and shaped(transition).dim() == 4:
        if shaped(direct).dim() == 2:
            direct = each(lambda x: x[..., None, None], direct)
        if shaped(source).dim() == 3:
            value, source = value.unsqueeze(2), each(lambda x: x.unsqueeze(2), source)
        if shaped(mark).dim() == 3:
            mark = each(lambda x: x.unsqueeze(3), mark)
    if update is not None:
        written = update.value
        if written is None:
            written = value.new_zeros(*update.key.shape[:3], value.size(-1))
        beta = update.beta.index_select(0, line_graph.edge_index[0])
        update = Reflections(update.key, beta, written)
    return Inputs(query, key, value, source, transition, mark, direct, update)


def _with_ports(inputs: Inputs, options: Options, line_graph: LineGraph, scale: float):
    """The inputs with ports for the states in and out, and these."""
    none = line_graph.edge_index.new_empty(0)
    into = none if options.initial is None else options.initial.edge
    out = none if options.return_state is None else options.return_state
    if inputs.factored:
        lines = inputs.transition.expand(line_graph.line_index)
        inputs = inputs._replace(transition=lines)
    ports = with_ports(line_graph, into, out, inputs.states * inputs.query.size(2))
    inputs = inputs._replace(query=inputs.query * scale)
    return extended(inputs, options.initial, ports), ports


def _problem(inputs: Inputs, line_graph: LineGraph, backend: str) -> Problem:
    sizes = (*inputs.query.shape[1:], inputs.value.size(-1))
    states = (1, 1, 1)
    if inputs.kind == "block":
        states = (*inputs.source.shape[2:], inputs.mark.size(3))
    dtype = compute_dtype(*inputs.tensors)
    updates = inputs.update is not None
    return Problem(line_graph, *sizes, inputs.kind, backend, dtype, updates, states)


def _is_prepared(
    inputs: Inputs, options: Options, line_graph: LineGraph, scale: float, form: str, backend: str
) -> bool:
    """Whether all that :func:`_run` needs of the line graph is there."""
    if form == "naive" or options.ports:
        return False
    if options.stabilizer is not None and not line_graph.has_plan("level_schedule"):
        return False
    if inputs.factored and not line_graph.has_plan("is_complete"):
        return False
    # Only shapes and dtypes matter, which are those of the logarithms.
    gates = (gate if isinstance(gate, Factored) else shaped(gate) for gate in inputs[3:7])
    inputs = general(Inputs(*inputs[:3], *gates, inputs.update), line_graph)
    problem = _problem(inputs, line_graph, backend)
    counted = options.normalizer in COUNTING
    problem = problem._replace(value_size=problem.value_size + counted)
    if inputs.factored and not _keeps_factors(inputs, line_graph):
        problem = problem._replace(kind="line")
    return is_prepared(form, problem)
