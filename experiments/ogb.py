"""Molecules of the Open Graph Benchmark: official split, official evaluator, several seeds.

    python -m experiments.ogb --config experiments/configs/ogb_molhiv_plstm.yaml
    python -m experiments.ogb --config experiments/configs/ogb_small_gin.yaml --seeds 0
    python -m experiments.ogb report experiments/results

ROC-AUC on ogbg-molhiv, RMSE on ogbg-molesol, -molfreesolv and -mollipo, at the epoch with the
best validation score. A run is a row of the table on one set with one seed; it writes its results
and its checkpoint after each epoch: the same command goes on where it was stopped, and leaves
finished runs alone. Processes with other rows, --sets or --seeds may run at once.
"""

from __future__ import annotations

from pathlib import Path

from datasets import ogb as ogb_sets
from experiments import cli, graph_report, published
from experiments.fitting import Protocol, quiet
from experiments.graph_runs import Row, run_seeds
from experiments.models import ModelConfig

PROTOCOL = Protocol(
    epochs=50, warmup_epochs=5, batch_size=64, lr=1e-3, accelerator="cpu", devices="1"
)
MODEL = ModelConfig("plstm", 96, 4)  # the rows of the table are in experiments/configs


def train(
    row: str = "plstm",
    model: ModelConfig = MODEL,
    sets: str = ",".join(ogb_sets.NAMES),
    seeds: str | int = "0,1,2",
    protocol: Protocol = PROTOCOL,
    orientation: str = "canonical",
    average: int = 1,
    limit: int | None = None,
    data_root: Path | None = None,
    out: Path = Path("runs/ogb"),
    checkpoints: Path = Path("runs/ogb"),
) -> list[dict]:
    """Train one model on the sets with each of the seeds, or go on with what was stopped.

    Args:
        row: name of this row of the table, and part of its files' names.
        model: the model.
        sets: which of ogbg-molhiv, -molesol, -molfreesolv, -mollipo; separated by commas.
        seeds: of initialisation, batches and orientations; separated by commas.
        protocol: how to train.
        orientation: of pLSTM's DAGs; random and random_bfs are sampled for every batch.
        average: with these two: orientations over which predictions are averaged.
        limit: use only so many graphs of each part, for tests.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: folder of the results ogb_ROW_SET_seedN.json.
        checkpoints: folder of checkpoints and logs.
    """
    quiet()
    names, numbers = cli.names("sets", sets, ogb_sets.NAMES), cli.integers("seeds", seeds)
    chosen = Row("ogb", row, model, protocol, orientation, average, limit=limit)
    results = []
    for name in names:
        results += run_seeds(ogb_sets.load(name, data_root), chosen, numbers, out, checkpoints)
    return results


def report(folder: Path) -> dict:
    """Print the table of each data set.

    Args:
        folder: of the results, --out of the training.
    """
    return graph_report.report(folder, "ogb", published.OGB)


def main(args: list[str] | None = None):
    """Command line; ``train`` where no command is named."""
    return cli.run({"train": train, "report": report}, args, default="train")


if __name__ == "__main__":
    main()
