"""One model through the protocol: train, keep the best epoch, predict the test set."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch_geometric.data import Batch, Data

from datasets import InputError
from experiments.averaging import WeightAverage
from experiments.loading import Views
from experiments.metrics import monitor_of
from experiments.models import Inputs, ModelConfig, count_parameters, to_dict
from experiments.training import GraphModule, History


@dataclass(frozen=True)
class Protocol:
    """What all models of a comparison share.

    Args:
        epochs: most epochs of each model.
        warmup_epochs: epochs of rising learning rate.
        batch_size: graphs per step and device.
        lr: peak learning rate.
        weight_decay: of AdamW.
        patience: epochs without a better validation metric before a model stops, where a study
            stops early.
        seed: of initialisation, batches and orientations.
        accelerator: auto, cpu or gpu.
        devices: number of devices.
        strategy: auto, or ddp for several devices.
        workers: processes that load batches.
        ema: epochs over which the weights that are validated, tested and kept are averaged, see
            :class:`WeightAverage`; 0 for the weights as they are.
        norm_batches: with ema: training batches of which batch norms take their statistics
            before each validation.
    """

    epochs: int = 20
    warmup_epochs: int = 2
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 1e-2
    patience: int = 20
    seed: int = 0
    accelerator: str = "auto"
    devices: str = "auto"
    strategy: str = "auto"
    workers: int = 0
    ema: float = 0.0
    norm_batches: int = 0

    def __post_init__(self) -> None:
        if self.norm_batches and not self.ema:
            raise InputError(
                f"expected norm_batches with ema only, got {self.norm_batches}; set ema, or "
                f"norm_batches to 0"
            )


@dataclass(frozen=True)
class Fit:
    """A trained model: its predictions for the test set, and how it came about."""

    config: ModelConfig
    pred: Tensor
    score: float
    parameters: int
    history: History


def quiet() -> None:
    """Keep Lightning's advice and start-up notices out of the output."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
    warnings.filterwarnings("ignore", message=".*Previous log files in this directory.*")


def make_trainer(
    protocol: Protocol, history: History, *callbacks: Callback, logger=False, **options
) -> L.Trainer:
    """A trainer without notices; ``options`` go to :class:`lightning.Trainer`."""
    callbacks = [history, *callbacks]
    if protocol.ema:
        callbacks.append(WeightAverage(protocol.ema, protocol.norm_batches))
    if sys.stdout.isatty():  # a log file would get a line for every step
        callbacks.append(RichProgressBar(leave=False))
    return L.Trainer(
        max_epochs=protocol.epochs,
        accelerator=protocol.accelerator,
        devices=protocol.devices,
        strategy=protocol.strategy,
        callbacks=callbacks,
        logger=logger,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        gradient_clip_val=1.0,
        **options,
    )


def target_scale(graphs: Sequence[Data]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the targets of some graphs, which standardise them.

    The deviation of a constant target is taken as 1.

    Returns:
        two tensors [] for one target, [T] for T targets.
    """
    y = torch.cat([graph.y for graph in graphs])
    std = y.std(0, correction=0)
    return y.mean(0), std.where(std > 0, 1.0)


def make_module(
    config: ModelConfig,
    train: list[Data],
    task: str,
    protocol: Protocol,
    average: int = 1,
    orientation: str = "canonical",
    loss: str = "mse",
    target_names: list[str] | None = None,
) -> GraphModule:
    """A module with the scale of the training targets; see :class:`GraphModule`.

    Args:
        config: the model.
        train: graphs of the training set.
        task: "regression", "binary" or "multilabel".
        protocol: learning rate and so on.
        average: copies of each graph in validation batches.
        orientation: of pLSTM's graphs.
        loss: of regression: "mse" or "l1".
        target_names: one for each target.
    """
    mean, std = 0.0, 1.0
    if task == "regression":
        mean, std = (value.tolist() for value in target_scale(train))
    return GraphModule(
        to_dict(config),
        to_dict(Inputs.of(train[0])),
        task,
        mean=mean,
        std=std,
        loss=loss,
        lr=protocol.lr,
        weight_decay=protocol.weight_decay,
        warmup_epochs=protocol.warmup_epochs,
        orientation=orientation,
        average=average,
        target_names=target_names,
    )


def fit(
    config: ModelConfig,
    parts: dict[str, list[Data]],
    task: str,
    protocol: Protocol,
    out: Path,
    orientation: str = "canonical",
    average: int = 1,
    target_names: list[str] | None = None,
    name: str | None = None,
) -> Fit | None:
    """Train a model, with logs, early stopping and the best checkpoint in ``out``.

    Args:
        config: the model.
        parts: "train", "valid" and "test" graphs.
        task: "regression", "binary" or "multilabel".
        protocol: how to train.
        out: folder; the checkpoint is ``out``/checkpoints/NAME.ckpt.
        orientation: of pLSTM's graphs, see :mod:`experiments.loading`.
        average: random orientations over which pLSTM's predictions are averaged.
        target_names: one for each target; the checkpoint has them.
        name: of the checkpoint and the logs; default that of the model.

    Returns:
        The fit; None in helper processes of DDP, which only train.
    """
    L.seed_everything(protocol.seed, workers=True, verbose=False)
    views = Views.of(config, parts, protocol.batch_size, orientation, average, protocol.seed)
    module = make_module(
        config, parts["train"], task, protocol, views.average, orientation,
        target_names=target_names,
    )  # fmt: skip
    name = name or config.name
    metric, mode = monitor_of(task, Inputs.of(parts["train"][0]).targets)
    best = ModelCheckpoint(
        out / "checkpoints", name, monitor=f"valid_{metric}", mode=mode,
        enable_version_counter=False,
    )  # fmt: skip
    stop = EarlyStopping(f"valid_{metric}", mode=mode, patience=protocol.patience)
    logs = [
        TensorBoardLogger(out / "logs", name, "tensorboard"),
        CSVLogger(out / "logs", name, "csv"),
    ]
    history = History()
    trainer = make_trainer(protocol, history, best, stop, logger=logs)
    trainer.fit(module, views.train_loader(protocol.workers), views.eval_loader("valid"))
    if not trainer.is_global_zero:
        return None
    module = GraphModule.load_from_checkpoint(best.best_model_path, map_location="cpu")
    # In this process alone: distributed sampling repeats graphs to fill its batches.
    pred = predict(module, views.batches["test"], trainer.strategy.root_device)
    score = float(best.best_model_score)
    return Fit(config, pred, score, count_parameters(module.net), history)


@torch.no_grad()
def predict(
    module: GraphModule, batches: Sequence[Batch], device: torch.device | str = "cpu"
) -> Tensor:
    """[B] or [B, T] predictions for all batches, in the target's unit or as probabilities."""
    module = module.to(device).eval()
    return torch.cat([module.predict(batch.to(device)).cpu() for batch in batches])
