"""The times of the parts of a model in one training step."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from experiments.training import GraphModule
from plstm_graph.nn import PLSTMConv

REST, LOSS, GRADIENTS = "residuals, rest", "loss", "parameter gradients"
BACKWARD = "autograd::engine::evaluate_function: "


class Stages:
    """The forward times of labelled modules, and the sequence numbers of what they recorded."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.numbers: list[tuple[int, str]] = []  # from this number on, this label
        self._labels: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, label: str) -> Iterator[None]:
        self.enter(label)
        yield
        self.leave()

    def enter(self, label: str) -> None:
        self._switch()
        self._labels.append(label)
        self._number()

    def leave(self) -> None:
        self._switch()
        self._labels.pop()
        self._number()

    def watch(self, module: nn.Module | None, label: str) -> None:
        """Count the forward pass of a module under a label."""
        if module is not None:
            module.register_forward_pre_hook(lambda *_: self.enter(label))
            module.register_forward_hook(lambda *_: self.leave())

    def label_of(self, number: int) -> str:
        """The label under which an operation was recorded."""
        if number < 0:  # it was not recorded: autograd adds up the gradients of the parameters
            return GRADIENTS
        return self.numbers[bisect_right(self.numbers, number, key=lambda pair: pair[0]) - 1][1]

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._labels:
            self.seconds[self._labels[-1]] += now - self._since
        self._since = now

    def _number(self) -> None:
        label = self._labels[-1] if self._labels else REST
        self.numbers.append((torch.autograd._get_sequence_nr(), label))


def watch(module: GraphModule, stages: Stages) -> None:
    """Label the parts of a model; of pLSTM's layers, what is left is the propagation."""
    net = module.net
    core = net.core
    stages.watch(net, REST)
    for encoder in (core.node_encoder, core.edge_encoder):
        stages.watch(encoder, "encoders")
    for part in (core.readout, core.head):
        stages.watch(part, "readout, head")
    if not net.uses_line_graph:
        for layer in core.layers:
            stages.watch(layer, "local layers")
        return
    for dropout in (m for m in core.modules() if isinstance(m, nn.Dropout)):
        stages.watch(dropout, "dropout")
    stages.watch(core.norm, "norms")
    for block in core.blocks:
        for norm in (block.norm, block.post_norm, block.ffn_norm, block.conv.norm):
            stages.watch(norm, "norms")
        stages.watch(block.local, "local branch")
        stages.watch(block.ffn, "MLP")
    for conv in (m for m in net.modules() if isinstance(m, PLSTMConv)):
        stages.watch(conv, "propagation")
        stages.watch(conv.projection, "projections")
        stages.watch(conv.lin_out, "projections")
        conv.register_edge_update_forward_pre_hook(lambda *_: stages.enter("gates"))
        conv.register_edge_update_forward_hook(lambda *_: stages.leave())


def backward_shares(loss: Tensor, stages: Stages) -> dict[str, float]:
    """Run the backward pass; the share of each label in its time."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        loss.backward()
    seconds: dict[str, float] = defaultdict(float)
    for event in record.events():
        if event.name.startswith(BACKWARD):
            seconds[stages.label_of(event.sequence_nr)] += event.cpu_time_total
    total = sum(seconds.values())
    return {label: value / total for label, value in seconds.items()}
