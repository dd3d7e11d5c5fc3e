"""Long-range peptides: 10 labels (average precision) or 11 properties (mean absolute error).

    python -m experiments.peptides --config experiments/configs/peptides_plstm.yaml
    python -m experiments.peptides --config experiments/configs/peptides_gin.yaml --seeds 0
    python -m experiments.peptides report experiments/results

The official split of the Long Range Graph Benchmark, no positional encodings; the score is that of
the epoch with the best validation score, the mean over labels or properties. A run is a row of the
table on one set with one seed; it writes its results and its checkpoint after each epoch: the same
command goes on where it was stopped, and leaves finished runs alone.
"""

from __future__ import annotations

from pathlib import Path

from datasets import peptides as peptide_sets
from experiments import cli, graph_report, published
from experiments.fitting import Protocol, quiet
from experiments.graph_runs import Row, run_seeds
from experiments.models import ModelConfig

PROTOCOL = Protocol(
    epochs=60, warmup_epochs=3, batch_size=64, lr=1e-3, accelerator="cpu", devices="1"
)
MODEL = ModelConfig("plstm", 96, 4)  # the rows of the table are in experiments/configs
# What is scored is also what is trained, for the properties.
SCORES = {"peptides-struct": {"monitor": ("mae", "min"), "loss": "l1"}}


def train(
    row: str = "plstm",
    model: ModelConfig = MODEL,
    sets: str = "peptides-func",
    seeds: str | int = "0",
    protocol: Protocol = PROTOCOL,
    orientation: str = "canonical",
    average: int = 1,
    limit: int | None = None,
    data_root: Path | None = None,
    out: Path = Path("runs/peptides"),
    checkpoints: Path = Path("runs/peptides"),
) -> list[dict]:
    """Train one model on the sets with each of the seeds, or go on with what was stopped.

    Args:
        row: name of this row of the table, and part of its files' names.
        model: the model.
        sets: peptides-func, peptides-struct or both, separated by commas.
        seeds: of initialisation, batches and orientations; separated by commas.
        protocol: how to train.
        orientation: of pLSTM's DAGs; random and random_bfs are sampled for every batch.
        average: with these two: orientations over which predictions are averaged.
        limit: use only so many graphs of each part, for tests.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: folder of the results peptides_ROW_SET_seedN.json.
        checkpoints: folder of checkpoints and logs.
    """
    quiet()
    names, numbers = cli.names("sets", sets, peptide_sets.NAMES), cli.integers("seeds", seeds)
    results = []
    for name in names:
        scores = SCORES.get(name, {})
        chosen = Row("peptides", row, model, protocol, orientation, average, limit=limit, **scores)
        results += run_seeds(peptide_sets.load(name, data_root), chosen, numbers, out, checkpoints)
    return results


def report(folder: Path) -> dict:
    """Print the table of each data set.

    Args:
        folder: of the results, --out of the training.
    """
    return graph_report.report(folder, "peptides", published.PEPTIDES)


def main(args: list[str] | None = None):
    """Command line; ``train`` where no command is named."""
    return cli.run({"train": train, "report": report}, args, default="train")


if __name__ == "__main__":
    main()
