"""The pLSTM as a message passing layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.typing import Adj, OptTensor

from plstm_graph.checks import choice, refuse
from plstm_graph.dag.line_graph import LineGraph
from plstm_graph.nn.cells import CellTensors, cell_mode, make_cell
from plstm_graph.nn.cells.plstm import plstm_parts
from plstm_graph.nn.checks import (
    check_batch_vector,
    check_heads,
    check_options,
    check_plstm_alone,
    check_x,
)
from plstm_graph.nn.gates import (
    Gates,
    edge_logits,
    line_logits,
    mask_states,
    normalize_factors,
    normalize_transition,
)
from plstm_graph.nn.graphs import directed, lasting, resolve_edges
from plstm_graph.nn.norm import HeadRMSNorm, log_rms, mean_square, unit_length, widened
from plstm_graph.nn.paths import PathFeatures
from plstm_graph.nn.projection import Projection
from plstm_graph.ops import Factored, dag_scan, plstm


class PLSTMConv(MessagePassing):
    r"""The pLSTM layer from the `"pLSTM: parallelizable Linear Source Transition Mark networks"
    <https://arxiv.org/abs/2506.11997>`_ paper.

    A linear recurrence on the edges of a graph. For an edge e = (src -> dst)
    and the line edges l = (e' -> e) into it

    .. math::
        C_e &= \sum_{l = (e', e)} T_l C_{e'} + S_e\, k_{src(e)} v_{src(e)}^{\top} \\
        h_n &= \sum_{e \to n} M_e C_e^{\top} q_n + D_n (q_n \cdot k_n) v_n \\
        out_n &= W_O\, [\mathrm{RMSNorm}(h_n),\ \log \mathrm{rms}(h_n)]

    per head. The gates Source, Transition, Mark and Direct are functions of node and edge features
    (:mod:`plstm_graph.nn.gates`). On an undirected graph a state moves against the order of the
    DAG, turns once, and moves along it (:mod:`plstm_graph.dag.two_way`): with a breadth-first
    orientation a single layer joins every pair of nodes of a component. On a directed acyclic graph
    a node hears its ancestors.

    With another ``cell`` the gates, their update of the state and its reading are those of another
    linear recurrent network (:mod:`plstm_graph.nn.cells`, which says how it runs on graphs); on a
    path it is the published one. Head norm and output projection stay.

    Under :mod:`torch_geometric.explain` the mask of an edge scales its state :math:`C_e`, once:
    what the edge says to its target and all that it passes on. With 0 the edge is not there.

    Args:
        in_channels: size of each input sample, or -1 to take it from the first input.
        out_channels: size of each output sample, all heads together: K = V =
            out_channels / heads.
        heads: H, number of heads. Default 1.
        cell: ``"plstm"``, ``"mlstm"``, ``"gla"``, ``"mamba2"``, ``"delta"``, ``"gated_delta"``,
            ``"delta_product"``, ``"bd_lru"``, ``"h_lru"`` or ``"state_tracking"``.
            Default ``"plstm"``.
        cell_options: of the cell's class in :mod:`plstm_graph.nn.cells`, by name, e.g.
            ``{"reflections": 3}`` of ``"delta_product"``. Default: none.
        mode: ``"P"`` keeps all line edges and normalises the Transition; ``"D"`` keeps a
            multitree of line edges, where ``tanh`` suffices; ``"N"`` keeps all line edges as they
            are, for cells that are normalised otherwise (``"mlstm"``, ``"bd_lru"``, ``"h_lru"``).
            Default ``"N"`` for these, ``"P"`` for others.
        edge_dim: width of the edge features, -1 for lazy, ``None`` for none. Default ``None``.
        normalization: of the Transition in P-mode: the sum of its absolute values is at most 1
            over the line edges that leave an edge (``"source"``, as in the paper) or that enter
            it (``"target"``). Default ``"source"``.
        transition_node: whose features the Transition of (u -> v) -> (v -> w) reads:
            ``"junction"`` v, ``"start"`` u (the published program), ``"all"``
            u, v and w. Default ``"junction"``.
        transition: ``"line"``, a Transition for each line edge; ``"factored"``, a product of two
            gates of edges (:mod:`plstm_graph.nn.gates`): the cost is then that of the edges, so
            that nodes with thousands of neighbours are no problem. Default ``"line"``.
        direction: ``"two_way"``, against the order of the DAG and then along it; ``"forward"``,
            along it; ``"reverse"``, against it; ``"auto"``, two-way where the input was
            undirected and forward elsewhere. Default ``"auto"``.
        direction_offset: learn an offset for the gates of edges that run against the order of the
            DAG (Source, Mark, both parts of the Transition; for other cells wherever edge features
            count). The output then depends on which node
            is the root. Default ``False``.
        orientation: how to make a DAG of ``edge_index`` when no ``line_graph`` is given, see
            :meth:`plstm_graph.LineGraph.from_edge_index`. Default ``"canonical"``.
        bias: of all linear maps. Default ``True``.
        qk_norm: scale queries and keys to unit length, per head: their products lie between -1
            and 1 whatever the size of x, and the layer is as linear in x as its values.
            Default ``False``.
        head_norm: the RMSNorm of each head before the output projection. Without it the output
            grows with what a node has received, as the sums of GIN do. Default ``True``.
        log_norm: let the output projection also read the logarithm of each head's root mean square
            (:func:`plstm_graph.nn.norm.log_rms`), which ``head_norm`` takes away and which alone
            tells a distance; without ``head_norm`` it is not used. Default ``True``.
        paths: let the output projection also read a number for each head that is the longest or
            shortest path into a node, by learned costs of its edges
            (:class:`plstm_graph.nn.paths.PathFeatures`): ``"max"``, or ``"logsumexp"`` for a soft
            one over all paths. Default ``None``.
        scale: factor on the query, in the readout and in Direct. Default 1.
        init: ``"open"``, plain PyTorch initialisation of every map, and Transitions that start
            open at several time scales: the biases of their logits run from 0.5 to 3 over the
            heads; ``"graph"``, plain initialisation alone; ``"grid"`` starts as an
            almost lossless memory that is written and read little: gate weights 0, biases
            -4 (Source, Mark), -6 (Direct) and 5 (Transition). Default ``"open"``.
        form: form of the operator, see :func:`plstm_graph.ops.plstm`. Default ``"auto"``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. Default ``"auto"``.
        **kwargs: of :class:`torch_geometric.nn.conv.MessagePassing`;
            ``flow="target_to_source"`` reverses, too.

    ``normalization``, ``transition_node``, ``transition``, ``qk_norm``, ``scale`` and ``init`` are
    options of ``cell="plstm"``. Other cells make no messages, so that they have no hooks for them;
    :meth:`torch.nn.Module.register_forward_hook` of ``gates`` sees the operator's tensors.

    Shapes:
        - **input:** x [N, in_channels], edge_index [2, M], edge_attr [M, edge_dim] (its rows
          follow the columns of edge_index; edge e reads row ``line_graph.edge_id[e]``, so both
          columns of an undirected edge are read in a two-way graph, each by its own direction),
          batch [N]
        - **output:** [N, out_channels]; with ``return_gates=True`` also
          :class:`~plstm_graph.nn.gates.Gates`: source and mark [E, H], transition [L, H],
          direct [N, H] (for other cells as the operator takes them), and the (two-way, reversed,
          pruned) line graph that their rows follow

    Raises:
        ValueError: on bad options, and on input of the wrong shape, dtype or device, edge
            features missing or not asked for, or a line graph that is not of ``edge_index``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        *,
        cell: str = "plstm",
        cell_options: Mapping[str, Any] | None = None,
        mode: str | None = None,
        edge_dim: int | None = None,
        normalization: str = "source",
        transition_node: str = "junction",
        transition: str = "line",
        direction: str = "auto",
        direction_offset: bool = False,
        orientation: str | Tensor = "canonical",
        bias: bool = True,
        qk_norm: bool = False,
        head_norm: bool = True,
        log_norm: bool = True,
        paths: str | None = None,
        scale: float = 1.0,
        init: str = "open",
        form: str = "auto",
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        mode = cell_mode(cell, mode)
        check_options(
            in_channels=in_channels,
            edge_dim=edge_dim,
            normalization=normalization,
            transition_node=transition_node,
            transition=transition,
            direction=direction,
            direction_offset=direction_offset,
            orientation=orientation,
            bias=bias,
            qk_norm=qk_norm,
            head_norm=head_norm,
            log_norm=log_norm,
            paths=paths,
            scale=scale,
            init=init,
            form=form,
            backend=backend,
            aggr=kwargs.setdefault("aggr", "add"),
        )
        check_heads("out_channels", out_channels, heads)
        if transition == "factored":
            remedy = "leave it out with transition='factored'"
            choice("normalization", normalization, ("source",), remedy)
            choice("transition_node", transition_node, ("junction",), remedy)
        if cell != "plstm":
            check_plstm_alone(
                cell, normalization=normalization, transition_node=transition_node,
                transition=transition, qk_norm=qk_norm, scale=scale, init=init,
            )  # fmt: skip
        if "node_dim" in kwargs:
            refuse("node_dim", "to be left out: it is 0 in this layer", kwargs["node_dim"])
        super().__init__(node_dim=0, **kwargs)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.cell = cell
        self.mode = mode
        self.edge_dim = edge_dim
        self.normalization = normalization
        self.transition_node = transition_node if transition == "line" else transition
        self.transition = transition
        self.direction = direction
        self.orientation = orientation
        self.scale = scale
        self.qk_norm = qk_norm
        self.form = form
        self.backend = backend
        self.gates = make_cell(cell, out_channels, heads, mode, cell_options)
        if self.gates is None:
            parts = plstm_parts(out_channels, heads, self.transition_node, init)
        else:
            parts = [[part] for part in self.gates.node_parts], self.gates.edge_parts
        self.projection = Projection(in_channels, edge_dim, *parts, bias)
        self.norm = HeadRMSNorm(heads, out_channels // heads) if head_norm else None
        self.log_norm = log_norm and head_norm
        self.paths = None if paths is None else PathFeatures(in_channels, heads, paths, edge_dim)
        more = heads * (int(self.log_norm) + (paths is not None))
        width = out_channels + more
        self.lin_out = Linear(width, out_channels, bias=bias)
        # Added to the edge parts of the gates, in their order: see Projection.lin_edge.
        wide = sum(part.width for part in self.projection.edge_parts.values())
        offset = torch.nn.Parameter(torch.empty(wide)) if direction_offset else None
        self.register_parameter("direction_offset", offset)
        # A subclass that overrides these reads the messages.
        steps = "message", "aggregate", "update"
        self._custom = any(getattr(type(self), s) is not getattr(PLSTMConv, s) for s in steps)
        self.reset_parameters()

    @classmethod
    def paper(
        cls, in_channels: int, out_channels: int, heads: int = 1, **kwargs: Any
    ) -> "PLSTMConv":
        """The layer of the published graph program.

        One way, along the order of node indices; Transitions of P-mode normalised over the line
        edges that enter an edge, reading the node where e_in starts; heads normalised without the
        logarithm of their size; plain initialisation. ``kwargs`` as in the constructor.
        """
        published = {
            "normalization": "target",
            "transition_node": "start",
            "direction": "forward",
            "orientation": "index",
            "log_norm": False,
            "init": "graph",
        }
        return cls(in_channels, out_channels, heads, **{**published, **kwargs})

    def reset_parameters(self) -> None:
        """Resets all learnable parameters, as ``init`` says."""
        super().reset_parameters()
        self.projection.reset_parameters()
        if self.gates is not None:
            self.gates.reset_parameters()
        if self.norm is not None:
            self.norm.reset_parameters()
        if self.paths is not None:
            self.paths.reset_parameters()
        self.lin_out.reset_parameters()
        if self.direction_offset is not None:
            torch.nn.init.zeros_(self.direction_offset)

    @property
    def decomposed_layers(self) -> int:
        """Always 1: query and key meet in full before a message exists."""
        return 1

    @decomposed_layers.setter
    def decomposed_layers(self, value: int) -> None:
        if value != 1:
            raise ValueError(
                f"expected decomposed_layers=1, got {value}; PLSTMConv cannot split its "
                f"features, leave the option out"
            )

    def forward(
        self,
        x: Tensor,
        edge_index: Adj | None,
        edge_attr: OptTensor = None,
        batch: OptTensor = None,
        line_graph: LineGraph | None = None,
        return_gates: bool = False,
    ) -> Tensor | tuple[Tensor, Gates]:
        """Run the layer.

        Args:
            x: [N, in_channels] node features.
            edge_index: [2, M] tensor, ``EdgeIndex`` or (transposed) sparse tensor. With a
                ``line_graph`` it may be ``None``.
            edge_attr: [M, edge_dim] edge features; without ``edge_index`` too, its rows follow the
                columns that the line graph was made of. Default ``None``.
            batch: [N] graph of each node, which only orientation looks at. Default ``None``.
            line_graph: of this graph, one-way (or already two-way). Building it takes longer than
                the layer, so layers and epochs should share one. Default: built here.
            return_gates: also return the gates. Default ``False``.
        """
        proj = self.projection
        weight = None if proj.lazy else self.lin_out.weight
        check_x(x, proj.lin_node.in_channels, weight)
        check_batch_vector(batch, x)
        check_options(return_gates=return_gates, scale=self.scale)
        reverse_flow = self.flow == "target_to_source"
        line_graph, edge_attr, columns = resolve_edges(
            x, edge_index, edge_attr, batch, line_graph, self.orientation, proj.edge_dim, weight,
            reverse_flow,
        )  # fmt: skip
        if proj.lazy:
            proj.materialize(x, edge_attr)
        with lasting():
            line_graph = directed(line_graph, self.direction)
            if self.mode == "D":
                line_graph = line_graph.multitree()
            if reverse_flow:
                line_graph = line_graph.reverse()
                line_graph.reverse()  # is made for message passing
            direction = line_graph.direction

        *parts, edge = proj(x, edge_attr, line_graph.edge_id)
        dtype = parts[0].dtype
        if self.direction_offset is not None:
            against = (1 - direction).to(dtype).unsqueeze(-1)
            offset = against * self.direction_offset.to(dtype)
            edge = offset if edge is None else edge + offset
        if self.gates is not None:
            gates, out = self._run_cell(parts, edge, line_graph, columns)
        else:
            gates, out = self._run_plstm(parts, edge, line_graph, columns)
        with torch.autocast(x.device.type, enabled=False):
            square = mean_square(out) if self.log_norm else None
            size_of = log_rms(out, square) if self.log_norm else None
            if self.norm is not None:
                out = self.norm(out, square)
            far = None if self.paths is None else self.paths(x, edge_attr, line_graph)
            found = [out.flatten(1), size_of, far]
            out = torch.cat([part for part in found if part is not None], -1).to(dtype)
        out = self.lin_out(out)
        return (out, gates) if return_gates else out

    def _run_plstm(
        self, parts: list[Tensor], edge: OptTensor, line_graph: LineGraph, columns: int
    ) -> tuple[Gates, Tensor]:
        """Gates and heads [N, H, V] of the projection's parts."""
        query, key, value, direct, at_source, at_target = parts
        size = (query.size(0), query.size(0))
        # PyG turns the edges of the other flow round itself.
        dag = line_graph.reverse() if self.flow == "target_to_source" else line_graph
        # Products of halves leave their range and small gates theirs, so gates and heads are
        # float32 up to the output projection.
        direct = widened(direct).sigmoid()
        heads = (widened(part) for part in (query, key, value))
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in heads)
        if self.qk_norm:
            query, key = unit_length(query), unit_length(key)
        source, transition, mark = self.edge_updater(
            dag.edge_index,
            at_source=at_source,
            at_target=at_target,
            edge=edge,
            line_index=line_graph.line_index if self.transition == "line" else None,
            size=size,
        )
        if self.transition == "factored":
            transition = Factored(*transition)
            # A pruned graph has its transitions expanded: they are below one in D-mode.
            if self.mode == "P":
                transition = normalize_factors(*transition, line_graph)
        if self.explain and self._edge_mask is not None:
            mask = self._edge_mask.sigmoid() if self._apply_sigmoid else self._edge_mask
            source, transition = mask_states(source, transition, mask, line_graph, columns)

        with torch.autocast(query.device.type, enabled=False):
            if self._watched():
                src = line_graph.edge_index[0]
                outer = (key.unsqueeze(-1) * value.unsqueeze(-2)).flatten(2)  # [N, H, K * V]
                state = source.unsqueeze(-1) * outer.index_select(0, src)
                state = dag_scan(state, transition, line_graph, backend=self.backend)
                # propagate_type: (query: Tensor, state: Tensor, mark: Tensor)
                out = self.propagate(
                    dag.edge_index, query=query * self.scale, state=state, mark=mark, size=size
                )
                dot = (query * key).sum(-1) * direct * self.scale
                out = out + dot.unsqueeze(-1) * value
            else:
                gates = (source, transition, mark, direct, line_graph)
                options = {"scale": self.scale, "form": self.form, "backend": self.backend}
                out = plstm(query, key, value, *gates, **options)
        return Gates(source, transition, mark, direct, line_graph), out

    def _run_cell(
        self, parts: list[Tensor], edge: OptTensor, line_graph: LineGraph, columns: int
    ) -> tuple[Gates, Tensor]:
        """As :meth:`_run_plstm`, for the other cells."""
        if self._custom or self._has_hooks() or self._edge_update_forward_hooks:
            refuse(
                "hooks", f"on the module's gates with cell={self.cell!r}", "hooks on messages",
                "conv.gates.register_forward_hook sees the operator's tensors",
            )  # fmt: skip
        node = dict(zip(self.projection.node_parts, map(widened, parts)))
        names = self.projection.edge_parts
        if edge is not None:
            widths = [part.width for part in names.values()]
            edge = dict(zip(names, widened(edge).split(widths, -1)))
        with torch.autocast(parts[0].device.type, enabled=False):
            cell: CellTensors = self.gates(node, edge, line_graph)
            if self.explain and self._edge_mask is not None:
                mask = self._edge_mask.sigmoid() if self._apply_sigmoid else self._edge_mask
                source, transition = mask_states(
                    cell.source, cell.transition, mask, line_graph, columns
                )
                cell = cell._replace(source=source, transition=transition)
            out = self.gates.run(cell, line_graph, form=self.form, backend=self.backend)
        out = out.flatten(1).unflatten(-1, (self.heads, -1))
        return Gates(cell.source, cell.transition, cell.mark, cell.direct, line_graph), out

    def edge_update(
        self, at_source_j: Tensor, at_target_i: Tensor, edge: OptTensor, line_index: OptTensor
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor], Tensor]:
        """The gates of edges and line edges: source [E, H], transition [L, H] (or its two factors
        [E, H], not yet normalised), mark [E, H]."""
        source, mark, t_in, t_out = edge_logits(
            at_source_j, at_target_i, edge, self.transition_node
        )
        source, mark = widened(source), widened(mark)
        if line_index is None:
            a, b = widened(t_in).tanh(), widened(t_out)
            return source.sigmoid(), (a, b.tanh() if self.mode == "D" else b), mark.sigmoid()
        transition = widened(line_logits(t_in, t_out, line_index))
        if self.mode == "P":
            group = line_index[0] if self.normalization == "source" else line_index[1]
            transition = normalize_transition(transition, group, source.size(0))
        else:
            transition = transition.tanh()
        return source.sigmoid(), transition, mark.sigmoid()

    def message(self, query_i: Tensor, state: Tensor, mark: Tensor) -> Tensor:
        """What each edge tells its target, M_e C_e^T q, [E, H, V].

        The operator sums these without making them; they are made where something looks at
        them or changes them (hooks, explainers, subclasses).
        """
        query = (query_i * mark.unsqueeze(-1)).unsqueeze(-2)  # [E, H, 1, K]
        return (query @ state.unflatten(-1, (query.size(-1), -1))).squeeze(-2)

    def explain_message(self, inputs: Tensor) -> Tensor:
        """Messages as they are: their states carry the mask already."""
        return inputs

    def _watched(self) -> bool:
        """Whether anything wants single messages, so that they must be made."""
        return self._custom or self.explain or self._has_hooks()

    def _has_hooks(self) -> bool:
        """Whether a hook waits for messages."""
        return bool(
            self._propagate_forward_pre_hooks
            or self._propagate_forward_hooks
            or self._message_forward_pre_hooks
            or self._message_forward_hooks
            or self._aggregate_forward_pre_hooks
            or self._aggregate_forward_hooks
        )

    def __repr__(self) -> str:
        cell = "" if self.gates is None else f"cell={self.cell!r}, "
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {cell}"
            f"heads={self.heads}, mode={self.mode!r})"
        )
