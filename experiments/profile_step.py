"""Where the time of a training step goes: data, line graph, layers, optimizer.

    python -m experiments.profile_step
    python -m experiments.profile_step --row experiments/configs/ogb_molhiv_plstm.yaml --steps 20

Forward times are those of the clock at the borders of the modules, each without what is inside of
it. The backward pass has no such borders: the profiler tells the time of each of its operations,
and the sequence numbers of autograd the module whose forward pass they belong to; the shares are
scaled to the time that the backward pass takes without the profiler. Medians over steps, each on a
batch of its own, so that whatever is cached on a line graph is paid for.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
import yaml
from torch.nn.utils import clip_grad_norm_
from torch_geometric.data import Batch, Data

import datasets
from experiments import cli, reporting
from experiments.baselines import RECURRENT
from experiments.fitting import Protocol, make_module
from experiments.loading import Collate, training_data
from experiments.models import ModelConfig, count_parameters
from experiments.profile_stages import LOSS, Stages, backward_shares, watch
from experiments.training import GraphModule
from plstm_graph import LineGraph
from plstm_graph.ops import prepare

WARM_UP = 3  # steps that are not counted


def one_step(
    module: GraphModule,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    stages: Stages,
    profiled: bool,
) -> dict[str, float]:
    """Forward, backward and update; seconds or, in a profiled backward pass, shares by label."""
    stages.seconds.clear()
    stages.numbers.clear()
    with stages.stage(LOSS):
        loss = module.training_loss(batch)
    spent = {f"forward {label}": value for label, value in stages.seconds.items()}
    start = time.perf_counter()
    if profiled:
        shares = backward_shares(loss, stages)
    else:
        loss.backward()
    middle = time.perf_counter()
    clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if profiled:
        return {f"share {label}": share for label, share in shares.items()}
    return {**spent, "backward": middle - start, "optimizer": time.perf_counter() - middle}


def measure(
    module: GraphModule, graphs: list[Data], batch_size: int, orientation: str, steps: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of each stage: {stage: {"forward", "backward"}}, medians over steps.

    Args:
        module: the model.
        graphs: at least one.
        batch_size: graphs per step.
        orientation: of pLSTM's DAGs.
        steps: measured without the profiler, and as many again with it.
    """
    stages = Stages()
    watch(module, stages)
    optimizer = torch.optim.AdamW(module.parameters(), lr=module.hparams.lr, fused=True)
    config = ModelConfig(**module.hparams.model)
    graphs, collate = training_data(config.name, graphs, orientation)
    found: dict[str, list[float]] = defaultdict(list)
    for step in range(WARM_UP + 2 * steps):
        chosen = [graphs[(step * batch_size + i) % len(graphs)] for i in range(batch_size)]
        batch, spent = load(chosen, collate, config)
        profiled = step >= WARM_UP + steps
        spent |= one_step(module, optimizer, batch, stages, profiled)
        if step >= WARM_UP:
            for key, value in spent.items():
                found[key].append(value)
    median = {key: statistics.median(values) for key, values in found.items()}
    total = sum(value for key, value in median.items() if key.startswith("share "))
    backward = 1e3 * median.pop("backward") / total
    times: dict[str, dict[str, float]] = {}
    for key, value in median.items():
        kind, _, label = key.partition(" ")
        if kind == "share":
            times.setdefault(label, {})["backward"] = value * backward
        elif kind == "forward":
            times.setdefault(label, {})["forward"] = 1e3 * value
        else:
            times[key] = {"forward": 1e3 * value}
    return times


def load(graphs: list[Data], collate: Collate, config: ModelConfig) -> tuple[Batch, dict]:
    """A batch with all that is computed before the first layer, and the seconds that it took."""
    moments = [time.perf_counter()]

    def passed() -> float:
        moments.append(time.perf_counter())
        return moments[-1] - moments[-2]

    Batch.from_data_list(graphs)
    spent = {"collation": passed()}
    batch = collate(graphs)
    if config.name == "plstm":
        # The collater collates, too.
        spent["line graph"] = max(0.0, passed() - spent["collation"])
        if (config.options or {}).get("form", "auto") == "auto":
            size = config.hidden // config.heads
            prepare(LineGraph.from_data(batch), config.heads, size, size)
            spent["schedules"] = passed()
    return batch, spent


def run(
    row: Path = Path("experiments/configs/ogb_molhiv_plstm_local_random.yaml"),
    dataset: str = "ogbg-molhiv",
    steps: int = 30,
    batch_size: int = 64,
    data_root: Path | None = None,
    out: Path = Path("experiments/results/profile_molhiv.json"),
) -> dict:
    """Profile the training steps of one row of a table.

    Args:
        row: its YAML file.
        dataset: nci (embedded), or a TU or OGB set.
        steps: to be measured, and as many again for the backward pass in detail.
        batch_size: graphs per step.
        data_root: folder of the data sets; default PLSTM_DATA_ROOT or ~/.cache/plstm_graph.
        out: results file.
    """
    if not row.is_file():
        raise datasets.InputError(
            f"expected row to be the YAML file of a model, got {row}: no file"
        )
    if min(steps, batch_size) < 1:
        raise datasets.InputError("expected steps and batch_size of 1 or more")
    settings = yaml.safe_load(row.read_text())
    config = ModelConfig(**settings["model"])
    if config.name in RECURRENT:
        raise datasets.InputError(f"expected a row with layers to tell apart, got {config.name}")
    orientation = settings.get("orientation", "canonical")
    data = datasets.load(dataset, root=data_root)
    graphs = data.part("train")
    torch.manual_seed(0)
    module = make_module(config, graphs, data.task, Protocol(batch_size=batch_size))
    times = measure(module, graphs, batch_size, orientation, steps)
    total = sum(value for parts in times.values() for value in parts.values())
    result = {
        "dataset": data.name,
        "row": row.stem,
        "model": settings["model"],
        "orientation": orientation,
        "batch_size": batch_size,
        "steps": steps,
        "parameters": count_parameters(module.net),
        "step_ms": total,
        "seconds_per_epoch": total * -(-len(graphs) // batch_size) / 1e3,
        "stages_ms": times,
        **reporting.environment(0),
    }
    reporting.write_json(out, result)
    cells = []
    for label, parts in sorted(times.items(), key=lambda item: -sum(item[1].values())):
        forward, backward = (parts.get(key, 0.0) for key in ("forward", "backward"))
        share = (forward + backward) / total
        cells.append([label, f"{forward:.2f}", f"{backward:.2f}", f"{share:.1%}"])
    cells.append(["all", f"{total:.2f}", "", "100%"])
    columns = ["stage", "ms", "ms backward", "share"]
    reporting.print_cells(f"{data.name}, {row.stem}: a step of {batch_size}", columns, cells)
    return result


def main(args: list[str] | None = None):
    """Command line."""
    return cli.run(run, args)


if __name__ == "__main__":
    main()
