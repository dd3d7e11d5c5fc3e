"""A model that predicts molecules, each by itself.

A prediction depends on its molecule alone. Orientations are seeded by the molecule's canonical
SMILES, and networks run in float64. The sums of floating-point numbers still differ in their last
bits with the size of a batch; so values are rounded to a fixed number of decimals, and a molecule
with a value that lies too close to a tie between two of them is computed again by itself. Its
printed digits are then the same whatever its neighbours are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from plstm_graph.molecules.batches import MoleculeBatch, collate, mix
from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.graphs import seed_of
from plstm_graph.molecules.store import ModelConfig, load_model

#: A value this close to a tie, in units of the last decimal, is computed again by itself; relative
#: to 10^6 units, the largest that values usually are.
TIE = 1e-5


class Predictor:
    """A model that predicts molecules.

    Args:
        config: of the model.
        nets: its networks in float64.
        orientations: over which predictions are averaged; canonical ones are one.
        device: where it runs.
    """

    def __init__(
        self,
        config: ModelConfig,
        nets: Sequence[torch.nn.Module],
        orientations: int = 4,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.nets = [net.to(self.device) for net in nets]
        self.orientations = 1 if config.orientation == "canonical" else orientations
        self.samples = self.orientations * len(self.nets)
        self.unit = 10.0 ** -np.array(config.decimals, dtype=np.float64)

    @classmethod
    def load(
        cls, folder: str | Path, orientations: int = 4, accelerator: str = "auto"
    ) -> Predictor:
        """From the folder of a run; see :func:`plstm_graph.molecules.store.load_model`."""
        return cls(*load_model(folder), orientations, device_of(accelerator))

    def batch(self, graphs: Sequence[Data], seeds: np.ndarray, copy: int) -> MoleculeBatch:
        """Molecules with their orientation number ``copy``."""
        drawn = seeds ^ mix(np.array([copy], dtype=np.uint64)) if copy else seeds
        return collate(graphs, drawn, self.config.orientation).to(self.device)

    def readable(self, out: Tensor, member: int) -> Tensor:
        """Outputs of a network in the targets' units, or as probabilities."""
        if self.config.task == "regression":
            one = self.config.members[member]
            mean, std = (torch.tensor(v, dtype=out.dtype).to(out) for v in (one.mean, one.std))
            return out * std + mean
        return out.softmax(-1) if self.config.task == "multiclass" else out.sigmoid()

    @torch.no_grad()
    def samples_of(
        self, graphs: Sequence[Data], seeds: np.ndarray, members: Sequence[int]
    ) -> np.ndarray:
        """[S, B, columns]: predictions by each orientation and member."""
        out = []
        for copy in range(self.orientations):
            batch = self.batch(graphs, seeds, copy)
            out += [self.readable(self.nets[i](batch), i).cpu().numpy() for i in members]
        return np.stack(out)

    def predict(
        self, graphs: Sequence[Data], members: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and spreads of molecules in canonical order, rounded.

        Args:
            graphs: as :func:`plstm_graph.molecules.graphs.molecule` gives them.
            members: of the model. Default: all.

        Returns:
            [B, columns] means, and [B, columns] standard deviations over orientations and members,
            NaN where there is one of them only.
        """
        members = range(len(self.nets)) if members is None else members
        seeds = np.array([seed_of(graph.smiles) for graph in graphs], dtype=np.uint64)
        values = self._summary(graphs, seeds, members)
        if len(graphs) > 1:
            scaled = values / self.unit
            near = np.abs(scaled - np.floor(scaled) - 0.5)
            tied = near < TIE * np.maximum(1.0, np.abs(scaled) / 1e6)
            for row in np.flatnonzero(tied.any((0, 2))):
                alone = self._summary([graphs[row]], seeds[row : row + 1], members)
                values[:, row] = alone[:, 0]
        rounded = np.floor(values / self.unit + 0.5) * self.unit
        return rounded[0], rounded[1]

    def _summary(
        self, graphs: Sequence[Data], seeds: np.ndarray, members: Sequence[int]
    ) -> np.ndarray:
        """[2, B, columns]: means and standard deviations."""
        samples = self.samples_of(graphs, seeds, members)
        mean = samples.mean(0)
        spread = np.full_like(mean, np.nan)
        if len(samples) > 1:
            spread = samples.std(0, ddof=1)
        return np.stack([mean, spread])

    def text(self, values: np.ndarray) -> list[str]:
        """[columns] numbers with their decimals; empty for NaN."""
        return [
            "" if np.isnan(value) else f"{value:.{max(0, decimals)}f}"
            for value, decimals in zip(values.tolist(), self.config.decimals)
        ]


def device_of(accelerator: str) -> str:
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("expected accelerator auto or cpu, got 'gpu', and there is no GPU here")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
