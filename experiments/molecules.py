"""The main job: real molecules in, a trained pLSTM out, beside baselines of the same budget.

    python -m experiments.molecules                          # embedded NCI molecules
    python -m experiments.molecules --dataset ogbg-molhiv
    python -m experiments.molecules --csv mine.csv --smiles-column smiles --target-column logS

compares models; options may also come from a file: ``--config FILE.yaml``. The commands of the tool
``plstm-graph`` (:mod:`plstm_graph.molecules.cli`) are here, too:

    python -m experiments.molecules train --input mine.csv --target-column logS,logP --out run
    python -m experiments.molecules predict --model run --input more.smi --out predictions.csv
    python -m experiments.molecules explain --model run --smiles CCO --out pictures
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

import datasets
from experiments import cli
from experiments.fitting import Fit, Protocol, fit, quiet
from experiments.models import NAMES, GraphNet, Inputs, ModelConfig, count_parameters, match_budget
from experiments.molecules_report import Run, report
from experiments.reporting import title
from plstm_graph.molecules import InputError
from plstm_graph.molecules import cli as tool

# --quick: every part of a run, in seconds.
QUICK_EPOCHS, QUICK_LIMIT = 2, 256


def compare(
    dataset: str = "nci",
    csv: Path | None = None,
    smiles_column: str = "smiles",
    target_column: str | None = None,
    task: str | None = None,
    fold: int = 0,
    data_root: Path | None = None,
    models: str = "plstm,gine,gatv2,gps",
    hidden: int = 56,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    readout: str = "summean",
    local: str | None = "gine",
    baseline_layers: int = 4,
    baseline_dropout: float = 0.0,
    baseline_readout: str = "summean",
    orientation: str = "canonical",
    average: int = 1,
    epochs: int = 16,
    warmup_epochs: int = 2,
    batch_size: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 1e-2,
    patience: int = 20,
    seeds: str | int = "0",
    accelerator: str = "auto",
    devices: str = "auto",
    strategy: str = "auto",
    workers: int = 0,
    limit: int | None = None,
    quick: bool = False,
    out: Path | None = None,
) -> dict:
    """Train pLSTM and the baselines on one data set, and compare them on its test set.

    Several targets, as those of nci, are regressed by one model, each standardised on the training
    set; errors are then in standard deviations.

    Args:
        dataset: nci (embedded), MUTAG, NCI1, PROTEINS, PTC_FM, ogbg-molhiv, ogbg-molesol,
            ogbg-molfreesolv or ogbg-mollipo.
        csv: a CSV file of molecules instead.
        smiles_column: its column of SMILES.
        target_column: its column of targets.
        task: regression or binary; by default, binary if all targets of the CSV are 0 or 1.
        fold: fold of the 10-fold cross-validation, for the TU sets.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        models: which models to train, separated by commas: plstm and the baselines of
            experiments/baselines.py.
        hidden: width of pLSTM; the baselines get the width that meets its parameter count.
        layers: blocks of pLSTM.
        heads: heads of pLSTM, GAT, GATv2 and GPS.
        dropout: of pLSTM.
        readout: of pLSTM: mean, sum, max, or summean (half of the channels each).
        local: layer beside each pLSTM layer: gine, gin, gated_gcn, gatv2, gat, gcn, or null.
        baseline_layers: layers of the baselines.
        baseline_dropout: dropout of the baselines.
        baseline_readout: readout of the baselines.
        orientation: DAG of a molecule: canonical, index, degree, bfs, or random or random_bfs,
            which are sampled for every batch, as augmentation.
        average: with those two: orientations over which predictions are averaged.
        epochs: most epochs of each model.
        warmup_epochs: epochs of rising learning rate.
        batch_size: graphs per step and device.
        lr: peak learning rate.
        weight_decay: of AdamW.
        patience: epochs without a better validation metric before a model stops.
        seeds: of initialisation, batches and orientations, separated by commas; all models are
            trained with each. Of several, checkpoints are called MODEL_seedN.ckpt.
        accelerator: auto, cpu or gpu.
        devices: number of devices.
        strategy: auto, or ddp for several devices.
        workers: processes that load batches.
        limit: use only so many graphs of each part.
        quick: a short run of everything, for tests.
        out: folder for results; default runs/molecules/DATASET.
    """
    if quick:
        epochs, limit = min(epochs, QUICK_EPOCHS), min(limit or QUICK_LIMIT, QUICK_LIMIT)
    names, numbers = cli.names("models", models, NAMES), cli.integers("seeds", seeds)
    quiet()
    data = datasets.load(
        dataset, root=data_root, csv=csv, smiles_column=smiles_column,
        target_column=target_column, task=task, fold=fold,
    )  # fmt: skip
    protocol = Protocol(
        epochs, warmup_epochs, batch_size, lr, weight_decay, patience, numbers[0],
        accelerator, devices, strategy, workers,
    )  # fmt: skip
    run = Run(
        data,
        {name: data.part(name, limit) for name in datasets.SPLITS},
        protocol,
        out or Path("runs") / "molecules" / data.name,
        Console(quiet=rank_zero_only.rank != 0),  # one voice under DDP
    )
    for note in (*data.notes, run.describe()):
        run.console.print(note, markup=False, highlight=False)
    _check_classes(run)
    plstm = ModelConfig("plstm", hidden, layers, heads, dropout, readout, local)
    gine = ModelConfig("gine", 0, baseline_layers, heads, baseline_dropout, baseline_readout)
    configs = _same_budget(plstm, gine, names, Inputs.of(data.graphs[0]))
    fits = _fit_all(run, configs, numbers, orientation, average)
    return report(run, fits) if fits else {}


def _check_classes(run: Run) -> None:
    """One class has no ROC curve, by which the epoch is picked."""
    if run.data.task != "binary":
        return
    for part in ("valid", "test"):
        if len({float(graph.y) for graph in run.parts[part]}) < 2:
            raise InputError(
                f"expected both classes in the {part} part of {run.data.name}, got one; use "
                f"`train`, which takes other splits and metrics"
            )


def _same_budget(
    plstm: ModelConfig, baseline: ModelConfig, names: list[str], inputs: Inputs
) -> dict[str, ModelConfig]:
    """The models by name, each baseline with as many parameters as ``plstm``.

    Args:
        plstm: pLSTM, trained or not.
        baseline: one of the baselines; the others differ in name and width.
        names: models to be trained.
        inputs: what the models read.
    """
    budget = count_parameters(GraphNet(plstm, inputs))
    configs = {}
    for name in names:
        configs[name] = plstm
        if name != "plstm":
            configs[name] = match_budget(replace(baseline, name=name), inputs, budget)
    return configs


def _fit_all(
    run: Run, configs: dict[str, ModelConfig], seeds: list[int], orientation: str, average: int
) -> dict[str, dict[int, Fit]]:
    """Model -> seed -> fit, and a line for each; empty in helper processes of DDP."""
    fits: dict[str, dict[int, Fit]] = {name: {} for name in configs}
    for seed in seeds:
        protocol = replace(run.protocol, seed=seed)
        for name, config in configs.items():
            label = name if len(seeds) == 1 else f"{name}_seed{seed}"
            result = fit(
                config, run.parts, run.data.task, protocol, run.out, orientation, average,
                run.data.target_names, label,
            )  # fmt: skip
            if result is None:
                continue
            fits[name][seed] = result
            which = "" if len(seeds) == 1 else f", seed {seed}"
            run.console.print(
                f"{title(name)}{which}: {len(result.history.epochs)} epochs in "
                f"{result.history.seconds:.0f} s, best validation {title(run.monitor)} "
                f"{result.score:.3f}",
                highlight=False,
            )
    return fits if all(fits.values()) else {}


def main(args: Sequence[str] | None = None) -> Any:
    """Command line; ``compare`` where no command is named."""
    args = list(sys.argv[1:] if args is None else args)
    if args and args[0] in tool.COMMANDS:
        try:
            return tool.run(args, "python -m experiments.molecules")
        except InputError as error:
            raise SystemExit(f"error: {error}") from None
    return cli.run({"compare": compare}, args, default="compare")


if __name__ == "__main__":
    main()
