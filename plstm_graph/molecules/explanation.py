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

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from plstm_graph.molecules.console import Voice
from plstm_graph.molecules.errors import InputError, first_few
from plstm_graph.molecules.graphs import canonical, from_mol, parse_smiles, seed_of, silent
from plstm_graph.molecules.options import ExplainOptions
from plstm_graph.molecules.prediction import Predictor
from plstm_graph.molecules.store import write_json
from plstm_graph.molecules.tables import open_table
from plstm_graph.nn import PLSTMConv
from plstm_graph.ops import gating_matrix

if TYPE_CHECKING:
    from rdkit.Chem import Mol

#: Targets that are explained where none is named.
MOST_TARGETS = 10
#: The gating matrix of larger molecules is not written to the file.
MOST_ATOMS = 200


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


def explain(options: ExplainOptions, voice: Voice | None = None) -> list[dict]:
    """Explain molecules: pictures of each one, and explanations.json.

    Args:
        options: of the call.
        voice: prints notes.

    Returns:
        What explanations.json holds.
    """
    voice = voice or Voice()
    predictor = Predictor.load(options.model, options.orientations, options.accelerator)
    columns = _columns(predictor, options.target)
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"expected out as a folder, got the file {out}; choose another name")
    found, bad, notes = _read(options)
    for note in notes:
        voice.say(note)
    if bad:
        voice.say(f"{len(bad)} molecules cannot be read: {first_few(bad, 10)}")
    if not found:
        raise InputError("expected molecules to explain, got none that can be read")
    out.mkdir(parents=True, exist_ok=True)
    results, lines = [], []
    for number, written, mol in voice.track(found, "explaining molecules"):
        explanation = explain_molecule(predictor, mol)
        results.append(_write(out, number, written, explanation, predictor, columns))
        mean, spread = map(predictor.text, (explanation.prediction, explanation.spread))
        values = [
            f"{predictor.config.columns[i]} {mean[i]}" + (f" ± {spread[i]}" if spread[i] else "")
            for i in columns
        ]
        lines.append(f"{written or explanation.smiles}: {', '.join(values)}")
    write_json(out / "explanations.json", results)
    for line in lines:
        voice.say(line)
    voice.say(f"{out}: explanations.json and pictures (SVG and PNG) of {len(results)} molecules")
    return results


def _columns(predictor: Predictor, target: str | None) -> list[int]:
    names = predictor.config.columns
    if target is None:
        return list(range(min(len(names), MOST_TARGETS)))
    if target not in names:
        raise InputError(f"expected target out of {', '.join(map(repr, names))}, got {target!r}")
    return [names.index(target)]


def _read(
    options: ExplainOptions,
) -> tuple[list[tuple[int, str, Mol]], list[str], list[str]]:
    """Molecules that can be read, those that cannot, and notes."""
    notes: list[str] = []
    if options.smiles:
        items: Sequence[Any] = [(i, text, None) for i, text in enumerate(options.smiles, 1)]
    else:
        table = open_table(
            options.input,
            smiles_column=options.smiles_column,
            separator=options.separator,
            encoding=options.encoding,
            file_format=options.format,
        )
        rows = list(islice(table, options.most + 1))
        notes = list(table.notes)
        if len(rows) > options.most:
            notes.append(f"only the first {options.most} molecules are explained; see --most")
        items = [(row.number, row.smiles, row) for row in rows[: options.most]]
    found, bad = [], []
    with silent():
        for number, text, row in items:
            try:
                mol = parse_smiles(text) if row is None else row.molecule()
                found.append((number, text, mol))
            except ValueError as error:
                bad.append(f"{number} {text!r}: {error}")
    return found, bad, notes


def _write(
    out: Path,
    number: int,
    written: str,
    found: Explanation,
    predictor: Predictor,
    columns: list[int],
) -> dict:
    from plstm_graph.molecules.drawing import draw

    names, targets = predictor.config.columns, {}
    files = draw(out / f"molecule_{number}_gating", found.mol, found.taken, found.exchanged, False)
    prediction, spread = predictor.text(found.prediction), predictor.text(found.spread)
    for i in columns:
        safe = re.sub(r"[^\w.-]+", "_", names[i])[:60]
        stem = out / f"molecule_{number}_{safe}"
        targets[names[i]] = {
            "prediction": float(prediction[i]),
            "spread": float(spread[i]) if spread[i] else None,
            "atoms": _digits(found.atoms[i]),
            "bonds": _digits(found.bond_values[i]),
            "pictures": draw(stem, found.mol, found.atoms[i], found.bond_values[i], True),
        }
    small = len(found.order) <= MOST_ATOMS
    return {
        "number": number,
        "input": written,
        "smiles": found.smiles,
        "unit": "of the target" if predictor.config.task == "regression" else "logits",
        "atoms": [
            {"symbol": atom.GetSymbol(), "index_in_input": place}
            for atom, place in zip(found.mol.GetAtoms(), found.order)
        ],
        "bonds": [list(bond) for bond in found.bonds],
        "targets": targets,
        "gating": {
            "atoms": _digits(found.taken),
            "bonds": _digits(found.exchanged),
            "matrix": [_digits(row) for row in found.gates] if small else None,
            "pictures": files,
        },
    }


def _digits(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
