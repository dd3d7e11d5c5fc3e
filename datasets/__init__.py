"""Data sets of the experiments: graphs in a :class:`GraphDataset`, images as :class:`ImageDataset`.

A package of the checkout, not of the wheel. :func:`load` finds a set of graphs by its name,
:func:`load_images` a set of images; :class:`ArrowPointing` draws its images itself.
"""

from datasets.arrow_pointing import ArrowPointing
from datasets.base import SPLITS, GraphDataset, InputError, data_root
from datasets.images import ImageDataset, as_float, load_images
from datasets.registry import NAMES, load
from datasets.splits import cross_validation_split
from plstm_graph.molecules.on_disk import OnDiskMolecules

__all__ = [
    "NAMES",
    "SPLITS",
    "ArrowPointing",
    "GraphDataset",
    "ImageDataset",
    "InputError",
    "OnDiskMolecules",
    "as_float",
    "cross_validation_split",
    "data_root",
    "load",
    "load_images",
]
