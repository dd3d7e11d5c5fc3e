"""Predictions of a saved checkpoint for a file of SMILES."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

from datasets.base import InputError, numbered_targets
from datasets.smiles import parse, report_bad
from experiments import loading
from experiments.fitting import predict, quiet
from experiments.training import GraphModule


def read_smiles(path: Path, smiles_column: str) -> list[str]:
    """SMILES of a CSV file's column, or of any other file, the first word of each line."""
    if path.suffix.lower() != ".csv":
        return [(line.split() or [""])[0] for line in path.read_text().splitlines()]
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if smiles_column not in table.columns:
        raise InputError(
            f"expected smiles_column to be a column of {path}, got {smiles_column!r}; "
            f"it has {', '.join(map(repr, table.columns))}"
        )
    return list(table[smiles_column])


def predict_file(
    checkpoint: Path,
    file: Path,
    smiles_column: str = "smiles",
    out: Path = Path("predictions.csv"),
    batch_size: int = 256,
    accelerator: str = "auto",
) -> pd.DataFrame:
    """Predict for a file of SMILES, one a line or a CSV file.

    Args:
        checkpoint: written by a training run on molecules with SMILES.
        file: one SMILES a line, or a CSV file with a header.
        smiles_column: its column, if it is a CSV file.
        out: CSV file to write: row (from 1), smiles, prediction (for classes the probability of
            class 1), or where there are several targets one column each, by its name; the
            predictions for a SMILES that cannot be parsed stay empty.
        batch_size: molecules per batch.
        accelerator: auto, cpu or gpu.

    Returns:
        The table written.
    """
    quiet()
    console = Console()
    for path in (checkpoint, file):
        if not path.is_file():
            raise InputError(f"expected a file, got {path}, which does not exist")
    module = GraphModule.load_from_checkpoint(checkpoint, map_location="cpu")
    hp = module.hparams
    if not hp.inputs["molecular"]:
        raise InputError(
            f"expected a checkpoint trained on SMILES (nci, ogbg-mol*, or a CSV file), got "
            f"{checkpoint}, whose data set has atom labels of its own"
        )
    rows = read_smiles(file, smiles_column)
    parsed, bad = parse(enumerate(rows, 1))
    if not parsed:
        raise InputError(f"expected SMILES in {file}, got none that RDKit can parse")
    collate = loading.collate_of(hp.model["name"], hp.orientation, seed=0)
    batches = loading.eval_batches(list(parsed.values()), batch_size, collate, hp.average)
    use_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    values = predict(module, batches, "cuda" if use_gpu else "cpu")
    table = pd.DataFrame({"row": range(1, len(rows) + 1), "smiles": rows})
    for name, column in columns(values, hp.target_names).items():
        table[name] = table["row"].map(dict(zip(parsed, column.tolist())))
    table.to_csv(out, index=False)
    if bad:
        console.print(report_bad(bad, len(rows)), markup=False, highlight=False)
    console.print(f"{len(parsed)} predictions written to {out}")
    return table


def columns(values: Tensor, names: list[str] | None = None) -> dict[str, Tensor]:
    """Columns of a table of predictions.

    Args:
        values: [B] predictions of one target, which become "prediction", or [B, T].
        names: of the T targets; default target_1, target_2, ... for older checkpoints.
    """
    if values.dim() == 1:
        return {"prediction": values}
    return dict(zip(names or numbered_targets(values.size(1)), values.unbind(1)))
