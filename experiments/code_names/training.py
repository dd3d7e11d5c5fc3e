"""Batches of functions, the F1 of their names, and the module that trains every model."""

from __future__ import annotations

from dataclasses import asdict

from ogb.graphproppred import Evaluator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from datasets.code_names import CodeNames
from datasets.code_vocabulary import Vocabulary
from experiments.code_names.models import CodeConfig, CodeNet, Sizes, prepare
from experiments.dag_training import PARTS, GraphBatches, eval_batches, loader
from experiments.fitting import Protocol
from experiments.loading import EVAL_FACTOR
from experiments.training import EpochModule


def loaders(
    data: CodeNames, config: CodeConfig, protocol: Protocol
) -> tuple[DataLoader, list[DataLoader]]:
    """The training batches, and those of validation and test."""
    graphs = prepare(data.parts["train"], config)
    for graph in graphs:
        del graph.words  # only scores read them
    size = EVAL_FACTOR * protocol.batch_size
    evaluation = [
        loader(eval_batches(prepare(data.parts[part], config), size)) for part in PARTS
    ]  # fmt: skip
    return loader(GraphBatches(graphs, protocol.batch_size, protocol.seed)), evaluation


class NameScores:
    """OGB's F1 of ogbg-code2: of the sets of sub-tokens of each name, averaged over names.

    The reference has all sub-tokens of a name, those outside of the vocabulary too, which cannot be
    predicted; a prediction has those before its first end mark. Beside it the cross entropy of the
    places whose sub-token is in the vocabulary, which moves before the F1 does: at first a model
    predicts the most frequent sub-token for every function.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.evaluator = Evaluator("ogbg-code2")
        self.reset()

    def update(self, logits: Tensor, y: Tensor, words: list[list[str]]) -> None:
        """Logits [B, 5, classes], targets [B, 5], and the words of each of the B names."""
        known = y != self.vocabulary.unknown
        self.loss += float(F.cross_entropy(logits[known], y[known], reduction="sum"))
        self.places += int(known.sum())
        self.predicted += self.vocabulary.decode(logits.argmax(-1))
        self.expected += words

    def compute(self) -> dict[str, float]:
        """f1, precision, recall and loss; zeros where nothing was seen."""
        if not self.expected:
            return dict.fromkeys(("f1", "precision", "recall", "loss"), 0.0)
        found = self.evaluator.eval({"seq_ref": self.expected, "seq_pred": self.predicted})
        values = {name.lower(): float(value) for name, value in found.items()}
        return {**values, "loss": self.loss / max(1, self.places)}

    def reset(self) -> None:
        self.predicted: list[list[str]] = []
        self.expected: list[list[str]] = []
        self.loss, self.places = 0.0, 0


class CodeModule(EpochModule):
    """A model with its loss, scores and optimizer (:class:`EpochModule`).

    The loss is the mean over the five places of the cross entropy, with end marks behind short
    names, as in ogbg-code2.

    Args:
        model: fields of :class:`CodeConfig`.
        vocabulary: fields of :class:`datasets.code_names.Vocabulary`.
        seed: of dropout.
        lr: peak learning rate.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up.
    """

    def __init__(
        self,
        model: dict,
        vocabulary: dict,
        *,
        seed: int = 0,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_epochs: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        words = Vocabulary(**vocabulary)
        self.net = CodeNet(CodeConfig(**model), Sizes.of(words))
        self.scores = [NameScores(words) for _ in PARTS]

    def forward(self, batch: Batch) -> Tensor:
        """[B, 5, classes] logits."""
        return self.net(batch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = F.cross_entropy(self(batch).flatten(0, 1), batch.y.flatten())
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=batch.num_graphs)
        return loss

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        self.scores[dataloader_idx].update(self(batch), batch.y, batch.words)

    def on_validation_epoch_end(self) -> None:
        for part, scores in zip(PARTS, self.scores):
            values = {f"{part}_{name}": value for name, value in scores.compute().items()}
            self.log_dict(values, prog_bar=part == "valid")
            scores.reset()
        self.log("cpu_seconds", self.cpu_seconds())


def make_module(data: CodeNames, config: CodeConfig, protocol: Protocol) -> CodeModule:
    """A module with the learning rate and so on of a protocol."""
    return CodeModule(
        asdict(config), asdict(data.vocabulary), seed=protocol.seed, lr=protocol.lr,
        weight_decay=protocol.weight_decay, warmup_epochs=protocol.warmup_epochs,
    )  # fmt: skip
