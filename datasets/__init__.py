"""Data sets of the experiments: one file each, all loaded into :class:`GraphDataset`.

A package of the checkout, not of the wheel. :func:`load` finds a data set by its name.
"""

from datasets.base import SPLITS, GraphDataset, InputError, data_root
from datasets.registry import NAMES, load
from datasets.splits import cross_validation_split

__all__ = [
    "NAMES",
    "SPLITS",
    "GraphDataset",
    "InputError",
    "cross_validation_split",
    "data_root",
    "load",
]
