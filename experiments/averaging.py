"""The average of weights that is validated and kept, and the statistics of its batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class WeightAverage(WeightAveraging):
    r"""The moving average of weights and buffers over the steps, which is validated and kept.

    After step n it moves by :math:`1 - \min(1 - 1/s,\, (1 + n) / (10 + n))` towards the weights,
    with s the steps of ``epochs``: at first it reaches back over a ninth of the steps so far, so
    that it does not lag behind where an epoch has few steps.

    Args:
        epochs: how far back it reaches.
        norm_batches: training batches of which the averaged model's batch norms take their
            statistics again before each validation, see :func:`update_norms`; 0 to average those
            of training like the weights.
    """

    def __init__(self, epochs: float, norm_batches: int = 0) -> None:
        super().__init__(multi_avg_fn=self._move)
        self.epochs, self.norm_batches, self.decay = epochs, norm_batches, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.decay = 1 - 1 / max(1.0, self.epochs * trainer.num_training_batches)

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, module)  # the average takes the module's place
        if self.norm_batches and self._average_model is not None:
            update_norms(trainer, module, self.norm_batches)

    @torch.no_grad()
    def _move(self, averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        decay = min(self.decay, (1 + float(count)) / (10 + float(count)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:  # counters
            torch._foreach_copy_(averages, values)

    @contextmanager
    def applied(self, module: L.LightningModule) -> Iterator[None]:
        """The module with the averaged weights, as it is in validation."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)


@torch.no_grad()
def update_norms(trainer: L.Trainer, module: L.LightningModule, batches: int) -> None:
    """Statistics of batch norms over training batches, for the weights as they are now.

    Those gathered in training are of the weights of the last tens of steps; where an epoch has
    three steps, these are ten epochs. ``torch.optim.swa_utils.update_bn`` does the same with
    dropout, which validation does not have.

    Args:
        trainer: its training batches are read, without an effect on random numbers.
        module: to be validated.
        batches: how many, at most those of an epoch.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    with torch.random.fork_rng():
        for batch in islice(trainer.train_dataloader, batches):
            module(batch.to(module.device))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
        for statistic in (norm.running_mean, norm.running_var):  # one for all processes
            statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))
