"""What can be chosen on the command line and in Python, each with its one sentence of help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from plstm_graph.molecules.batches import ORIENTATIONS
from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.splits import Split
from plstm_graph.molecules.tables import FORMATS
from plstm_graph.molecules.targets import TASKS

ACCELERATORS = ("auto", "cpu", "gpu")
LOCAL = ("gin", "none")


def option(
    default: Any,
    text: str,
    *,
    kind: type = str,
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    many: str = "",
) -> Any:
    """A field of options.

    Args:
        default: its value.
        text: one sentence of help.
        kind: of the value.
        choices: values that are allowed.
        least, most: bounds of a number.
        many: "+" for one word or more.
    """
    meta = {
        "help": text, "kind": kind, "choices": tuple(choices), "least": least, "most": most,
        "many": many,
    }  # fmt: skip
    return field(default=default, metadata=meta)


@dataclass
class Reading:
    """How a file of molecules is read."""

    input: str = option("", "File of molecules: CSV, TSV, SMI, SDF (also .gz) or Parquet.")
    smiles_column: str | None = option(
        None, "Column of SMILES; by default the one called smiles, or similarly."
    )
    separator: str | None = option(
        None, "What separates the cells: comma, semicolon, tab, or a character; found by default."
    )
    encoding: str | None = option(
        None, "Encoding of the file, such as utf-8, utf-16 or cp1252; found by default."
    )
    format: str | None = option(
        None, "Format of the file where its name does not tell.", choices=tuple(FORMATS)
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass
class TrainOptions(Reading):
    """Train on a file of molecules with targets."""

    target_column: str = option("", "Columns of targets, separated by commas; cells may be empty.")
    task: str | None = option(
        None, "What the targets are; found by default from their values.", choices=TASKS
    )
    split: Sequence[str] = option(
        ("scaffold",),
        "How molecules are split: scaffold, random, column NAME, or kfold K.",
        many="+",
    )
    valid: float = option(
        0.1, "Fraction of molecules for validation.", kind=float, least=1e-9, most=0.5
    )
    test: float = option(
        0.1, "Fraction of molecules for the test.", kind=float, least=1e-9, most=0.5
    )
    seeds: str = option("0", "Seeds of splits, initial weights and batches, separated by commas.")
    ensemble: int = option(1, "Models for each split, whose predictions are averaged.",
                           kind=int, least=1)  # fmt: skip
    weight_column: str | None = option(None, "Column of weights of the molecules in the loss.")
    class_balance: bool = option(
        False, "Give all classes of a target the same total weight in the loss.", kind=bool
    )
    epochs: int = option(50, "Most epochs of each model.", kind=int, least=1)
    patience: int = option(
        15, "Epochs without a better validation metric before training stops.", kind=int, least=1
    )
    warmup_epochs: int = option(2, "Epochs of rising learning rate.", kind=int, least=0)
    batch_size: int = option(64, "Molecules of a training step.", kind=int, least=1)
    lr: float = option(3e-3, "Peak learning rate.", kind=float, least=1e-9, most=1.0)
    weight_decay: float = option(1e-2, "Weight decay of AdamW.", kind=float, least=0.0, most=10.0)
    hidden: int = option(64, "Width of the model, a multiple of its heads.", kind=int, least=1)
    layers: int = option(4, "Number of pLSTM layers.", kind=int, least=1)
    heads: int = option(4, "Heads of each layer.", kind=int, least=1)
    dropout: float = option(0.0, "Dropout.", kind=float, least=0.0, most=0.95)
    local: str = option(
        "gin", "Layer over the bonds beside each pLSTM layer, or none.", choices=LOCAL
    )
    orientation: str = option(
        "random_bfs",
        "Orientation of the bonds: a new random one in each epoch, or the canonical one.",
        choices=ORIENTATIONS,
    )
    orientations: int = option(
        4, "Orientations over which test predictions are averaged.", kind=int, least=1
    )
    cache: str | None = option(
        None, "Folder where molecules are kept on disk, for sets that do not fit in memory."
    )
    workers: int = option(0, "Processes that make batches.", kind=int, least=0)
    accelerator: str = option("auto", "Where the model runs.", choices=ACCELERATORS)
    out: str = option("", "Folder of the run, new or to be resumed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        required(self, "input", "target_column", "out")
        Split.read(self.split)
        self.seed_list()
        if self.hidden % self.heads:
            raise InputError(
                f"expected hidden as a multiple of heads ({self.heads}), got {self.hidden}; use "
                f"{max(1, self.hidden // self.heads) * self.heads}"
            )
        if self.valid + self.test > 0.9:
            raise InputError(
                f"expected valid + test of at most 0.9, got {self.valid + self.test:g}; leave "
                f"molecules to train on"
            )

    def seed_list(self) -> list[int]:
        words = [word.strip() for word in str(self.seeds).split(",")]
        if not all(word.isdecimal() and word.isascii() and len(word) < 10 for word in words):
            raise InputError(
                f"expected seeds as integers of 0 or more, separated by commas, got {self.seeds!r}"
            )
        seeds = [int(word) for word in words]
        if len(set(seeds)) < len(seeds):
            raise InputError(f"expected different seeds, got {self.seeds!r}; name each seed once")
        return seeds


@dataclass
class PredictOptions(Reading):
    """Predict for a file of molecules."""

    model: str = option("", "Folder of a finished run.")
    out: str = option("predictions.csv", "CSV file to write, compressed if its name ends with .gz.")
    keep: str = option("", "Further columns of the input to copy, separated by commas.")
    orientations: int = option(
        4, "Orientations of each molecule over which predictions are averaged.", kind=int, least=1
    )
    batch_size: int = option(256, "Molecules that are predicted at a time.", kind=int, least=1)
    workers: int = option(0, "Processes that read molecules.", kind=int, least=0)
    accelerator: str = option("auto", "Where the model runs.", choices=ACCELERATORS)

    def __post_init__(self) -> None:
        super().__post_init__()
        required(self, "model", "input", "out")


@dataclass
class ExplainOptions(Reading):
    """Show which atoms and bonds a prediction comes from."""

    model: str = option("", "Folder of a finished run.")
    smiles: Sequence[str] = option((), "SMILES to explain, instead of a file.", many="+")
    target: str | None = option(None, "Target to explain; by default all, ten at most.")
    most: int = option(20, "Molecules of the file that are explained.", kind=int, least=1)
    orientations: int = option(
        4, "Orientations over which contributions are averaged.", kind=int, least=1
    )
    accelerator: str = option("cpu", "Where the model runs.", choices=ACCELERATORS)
    out: str = option("explanations", "Folder for the pictures and explanations.json.")

    def __post_init__(self) -> None:
        super().__post_init__()
        required(self, "model", "out")
        if bool(self.smiles) == bool(self.input):
            raise InputError("expected smiles or input; pass --smiles SMILES or --input FILE")


def required(options: Any, *names: str) -> None:
    for name in names:
        if not str(getattr(options, name)).strip():
            raise InputError(f"expected {name}; pass --{name.replace('_', '-')}")


def check(options: Any) -> None:
    """Each value is of its kind, one of its choices and within its bounds."""
    for item in fields(options):
        value, meta = getattr(options, item.name), item.metadata
        if value is None:
            continue
        if meta["choices"] and value not in meta["choices"]:
            raise InputError(
                f"expected {item.name} out of {', '.join(meta['choices'])}, got {value!r}"
            )
        if meta["kind"] in (int, float):
            whole = meta["kind"] is int
            if isinstance(value, bool) or not isinstance(value, (int,) if whole else (int, float)):
                raise InputError(f"expected {item.name} as a number, got {value!r}")
            low, high = meta["least"], meta["most"]
            if not ((low is None or value >= low) and (high is None or value <= high)):
                span = f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
                raise InputError(f"expected {item.name} as a number {span}, got {value:g}")
