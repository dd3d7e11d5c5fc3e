"""Molecules in, answers out: from SMILES to graphs, trained models, predictions and explanations.

The console script ``plstm-graph`` is made of these modules; they need the packages of
``pip install 'plstm-graph[molecules]'``, which are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ExplainOptions": "options",
    "InputError": "errors",
    "OnDiskMolecules": "on_disk",
    "PredictOptions": "options",
    "Predictor": "predictor",
    "TrainOptions": "options",
    "explain": "explanation",
    "from_mol": "graphs",
    "from_smiles": "graphs",
    "load_model": "store",
    "open_table": "tables",
    "predict": "prediction",
    "scaffold_split": "splits",
    "train": "run",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
