"""One model on one data set with its own split and a seed, stopped and resumed at will."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch import Tensor
from torch_geometric.data import Data

from datasets import SPLITS, GraphDataset, InputError
from experiments import reporting, resuming
from experiments.averaging import WeightAverage
from experiments.fitting import Protocol, make_module, predict
from experiments.loading import Views
from experiments.metrics import epoch_metrics, monitor_of
from experiments.models import ModelConfig, count_parameters, to_dict
from experiments.training import History, chosen_epoch, seconds_per_epoch


@dataclass(frozen=True)
class Row:
    """A row of a table: a model, and how it is trained.

    Args:
        study: the table, first part of the files' names.
        name: of the row.
        model: the model.
        protocol: how to train; its seed is that of the run.
        orientation: of pLSTM's DAGs; other models have none.
        average: with random and random_bfs: orientations over which predictions are averaged.
        monitor: metric that picks the epoch and "min" or "max" of it; default that of the task.
        loss: of regression: "mse" or "l1".
        limit: use only so many graphs of each part, for tests.
    """

    study: str
    name: str
    model: ModelConfig
    protocol: Protocol
    orientation: str = "canonical"
    average: int = 1
    monitor: tuple[str, str] | None = None
    loss: str = "mse"
    limit: int | None = None

    def criterion(self, data: GraphDataset) -> tuple[str, str]:
        """Metric that picks the epoch, and "min" or "max" of it."""
        return self.monitor or monitor_of(data.task, data.num_targets)

    def settings(self, data: GraphDataset) -> dict:
        """What all parts of a run share."""
        drawn = self.model.name == "plstm"
        return {
            "row": self.name,
            "dataset": data.name,
            "metric": self.criterion(data)[0],
            "model": to_dict(self.model),
            "protocol": resuming.lasting(self.protocol),
            "orientation": self.orientation if drawn else "none",
            "average": self.average if drawn else 1,
            "limit": self.limit,
        }


class SeedEpochs(Callback):
    """Draw what is drawn in an epoch from seed and epoch alone, so that a resumed run is the same
    as one that was never stopped."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        torch.manual_seed((self.seed << 16) + trainer.current_epoch)


class TestBest(Callback):
    """Score the test set after every epoch that is the best so far on the validation set.

    Args:
        data: whose task and evaluator they are.
        graphs: of the test set.
        views: with their batches.
        metric: the score, which is written as test_METRIC.
        mode: "min" or "max" of it.
    """

    def __init__(
        self, data: GraphDataset, graphs: list[Data], views: Views, metric: str, mode: str
    ) -> None:
        self.data, self.batches, self.metric, self.mode = data, views.batches["test"], metric, mode
        self.target = torch.cat([graph.y for graph in graphs])

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        history = next(c for c in trainer.callbacks if isinstance(c, History))
        best = chosen_epoch(history.epochs, f"valid_{self.metric}", self.mode)
        if best == len(history.epochs) - 1:
            average = next((c for c in trainer.callbacks if isinstance(c, WeightAverage)), None)
            with average.applied(module) if average else nullcontext():
                pred = predict(module, self.batches, module.device)
            module.train()
            history.epochs[best][f"test_{self.metric}"] = self.score(pred, module.std.cpu())

    def score(self, pred: Tensor, std: Tensor) -> float:
        """The metric of [B] or [B, T] predictions; ``std`` is that of the training targets."""
        if self.data.evaluator is not None:  # of one metric
            (value,) = self.data.evaluator(pred, self.target).values()
            return float(value)
        target = self.target if self.data.task == "regression" else self.target.long()
        metrics = epoch_metrics(self.data.task, self.data.num_targets, std)
        return float(metrics(pred, target)[self.metric])


def run_seeds(
    data: GraphDataset, row: Row, seeds: list[int], out: Path, checkpoints: Path
) -> list[dict]:
    """A run with each of the seeds, and a line for each; see :func:`run`."""
    console = Console(quiet=rank_zero_only.rank != 0)  # one voice under DDP
    results = []
    for seed in seeds:
        seeded = replace(row, protocol=replace(row.protocol, seed=seed))
        result = run(data, seeded, out, checkpoints)
        metric = result["metric"]
        console.print(
            f"{row.name}, {data.name}, seed {seed}: test {reporting.title(metric)} "
            f"{result[f'test_{metric}']:.4f} at epoch {result['best_epoch']} of "
            f"{result['epochs_done']}, {result['train_seconds_per_epoch']:.1f} s an epoch",
            highlight=False,
        )
        results.append(result)
    return results


def run(data: GraphDataset, row: Row, out: Path, checkpoints: Path) -> dict:
    """Train a model, from its last checkpoint if there is one; its results.

    The test score is that of the first epoch with the best validation score, by the benchmark's
    own evaluator where there is one.

    Args:
        data: graphs and their split.
        row: model and protocol, with the seed.
        out: folder of the results file STUDY_ROW_SET_seedN.json, written after every epoch.
        checkpoints: folder of checkpoints and logs.
    """
    settings, protocol = row.settings(data), row.protocol
    slug = f"{row.study}_{row.name}_{data.name}_seed{protocol.seed}"
    path = out / f"{slug}.json"
    result = resuming.earlier(path, settings)
    if result.get("finished"):
        return result
    L.seed_everything(protocol.seed, workers=True, verbose=False)
    parts = {name: data.part(name, row.limit) for name in SPLITS}
    _check_classes(data, parts)
    views = Views.of(
        row.model, parts, protocol.batch_size, row.orientation, row.average, protocol.seed
    )
    module = make_module(
        row.model, parts["train"], data.task, protocol, views.average, row.orientation, row.loss,
        data.target_names,
    )  # fmt: skip
    train = views.train_loader(protocol.workers)
    # Its seeds for workers are not drawn from the global generator, see SeedEpochs.
    train.generator = torch.Generator().manual_seed(protocol.seed)
    metric, mode = row.criterion(data)
    return resuming.fit(
        module,
        train,
        [views.eval_loader("valid")],
        protocol,
        {**settings, "parameters": count_parameters(module.net)},
        lambda epochs: summary(epochs, metric, mode),
        path,
        checkpoints / slug,
        monitor=f"valid_{metric}",
        mode=mode,
        callbacks=[SeedEpochs(protocol.seed), TestBest(data, parts["test"], views, metric, mode)],
    )


def summary(epochs: list[dict[str, float]], metric: str, mode: str) -> dict:
    """What a run has come to."""
    best = chosen_epoch(epochs, f"valid_{metric}", mode)
    return {
        "best_epoch": best + 1,
        **{f"{part}_{metric}": epochs[best][f"{part}_{metric}"] for part in ("valid", "test")},
        "seconds_per_epoch": seconds_per_epoch(epochs),
        "train_seconds_per_epoch": seconds_per_epoch(epochs, "train_seconds"),
    }


def _check_classes(data: GraphDataset, parts: dict) -> None:
    """ROC curves and precisions need both classes."""
    if data.task == "regression":
        return
    for name, graphs in parts.items():
        positive = torch.cat([graph.y for graph in graphs]).mean(0)
        if not ((positive > 0) & (positive < 1)).any():
            raise InputError(
                f"expected both classes in every part of {data.name}, got one in {name} "
                f"({len(graphs)} graphs); choose a larger limit"
            )
