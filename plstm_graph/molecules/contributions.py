"""Which atoms and bonds a prediction comes from: by gradients, and by the gating matrices.

* The *contribution* of an atom or bond is the product of its encoded features with the gradient of
  the prediction in them, summed over the channels: how much the prediction would change, to first
  order, if the encoding were scaled. It has the unit of the target; that of a class is in logits.
* The *gating matrix* of a layer says how much each atom takes from each other one, before any
  value is known: :func:`plstm_graph.gating_matrix`. Its absolute values are averaged over heads and
  layers. An atom is as large as what all others take from it, a bond as what its two ends take
  from each other.

Both are means over orientations and networks.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from plstm_graph.molecules.graphs import canonical, from_mol, seed_of
from plstm_graph.molecules.predictor import Predictor
from plstm_graph.nn import PLSTMConv
from plstm_graph.ops import gating_matrix

if TYPE_CHECKING:
    from rdkit.Chem import Mol


@dataclass
class Explanation:
    """One molecule: N atoms, M bonds, T targets.

    Args:
        mol: in canonical order.
        smiles: canonical.
        order: [N] index of each atom in the molecule as it was given.
        bonds: [M, 2] ends.
        prediction, spread: [columns].
        atoms: [columns, N] contributions.
        bond_values: [columns, M] contributions.
        gates: [N, N] mean gating matrix.
    """

    mol: Mol
    smiles: str
    order: list[int]
    bonds: list[tuple[int, int]]
    prediction: np.ndarray
    spread: np.ndarray
    atoms: np.ndarray
    bond_values: np.ndarray
    gates: np.ndarray

    @property
    def taken(self) -> np.ndarray:
        """[N]: how much the other atoms take from each one, on average."""
        others = self.gates * (1 - np.eye(len(self.gates)))
        return others.sum(0) / max(1, len(self.gates) - 1)

    @property
    def exchanged(self) -> np.ndarray:
        """[M]: how much the ends of each bond take from each other."""
        return np.array([(self.gates[i, j] + self.gates[j, i]) / 2 for i, j in self.bonds])


def explain_molecule(predictor: Predictor, mol: Mol) -> Explanation:
    """Contributions of atoms and bonds to each predicted column, see the module.

    Args:
        predictor: the model.
        mol: a molecule, in any order.
    """
    again, smiles, order = canonical(mol)
    graph = from_mol(again, smiles)
    seeds = np.array([seed_of(smiles)], dtype=np.uint64)
    atoms, bonds, gates = [], [], []
    for copy in range(predictor.orientations):
        batch = predictor.batch([graph], seeds, copy)
        for member, net in enumerate(predictor.nets):
            with Recorder(net) as seen:
                out = net(batch)
                scale = torch.ones(out.size(1))
                if predictor.config.task == "regression":
                    scale = torch.tensor(predictor.config.members[member].std)
                one, two = seen.contributions(out[0] * scale.to(out))
            atoms.append(one)
            bonds.append(two)
            gates.append(seen.gates())
    prediction, spread = predictor.predict([graph])
    bond_list = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in again.GetBonds()]
    return Explanation(
        again,
        smiles,
        order,
        bond_list,
        prediction[0],
        spread[0],
        torch.stack(atoms).mean(0).numpy(),
        # The two columns of a bond are adjacent.
        torch.stack(bonds).mean(0).unflatten(1, (-1, 2)).sum(-1).numpy(),
        torch.stack(gates).mean(0).numpy(),
    )


class Recorder:
    """Keeps the encoded features and the inputs of each pLSTM layer of one forward pass."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.encoded: dict[str, Tensor] = {}
        self.layers: list[tuple[PLSTMConv, tuple, dict]] = []

    def __enter__(self) -> Recorder:
        self._stack = ExitStack()
        core = self.net.core
        for name, module in (("node", core.node_encoder), ("edge", core.edge_encoder)):
            self._hook(module, self._keep(name), with_kwargs=False)
        for module in self.net.modules():
            if isinstance(module, PLSTMConv):
                self._hook(module, self._layer, with_kwargs=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def _hook(self, module: nn.Module, function: Any, with_kwargs: bool) -> None:
        handle = module.register_forward_hook(function, with_kwargs=with_kwargs)
        self._stack.callback(handle.remove)

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            self.encoded[name] = out.detach().requires_grad_()
            return self.encoded[name]

        return hook

    def _layer(self, module: PLSTMConv, args: tuple, kwargs: dict, out: Tensor) -> None:
        detached = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        self.layers.append((module, detached, kwargs))

    def contributions(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """[columns, N] and [columns, 2 M]: gradient times encoding, summed over channels."""
        rows = []
        inputs = [self.encoded["node"], self.encoded["edge"]]
        for column in out:
            grads = torch.autograd.grad(column, inputs, retain_graph=True, allow_unused=True)
            rows.append(
                [
                    value.new_zeros(len(value)) if grad is None else (grad * value).sum(-1)
                    for grad, value in zip(grads, inputs)
                ]
            )
        return tuple(torch.stack(parts).detach().cpu() for parts in zip(*rows))

    @torch.no_grad()
    def gates(self) -> Tensor:
        """[N, N]: the absolute gating matrices, averaged over heads and layers."""
        total, layers = 0.0, self.layers[:]
        for module, args, kwargs in layers:
            _, gates = module(*args, **kwargs, return_gates=True)
            matrix = gating_matrix(
                gates.source, gates.transition, gates.mark, gates.direct, gates.line_graph
            )
            total = total + matrix.abs().mean(0)
        return (total / max(1, len(layers))).cpu()
