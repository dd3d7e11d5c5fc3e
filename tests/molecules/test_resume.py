"""A run that is killed and resumed ends as one that never stopped, to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from plstm_graph.molecules import InputError, TrainOptions, train, training
from plstm_graph.molecules.store import load_weights
from tests.molecules.conftest import TINY

OPTIONS = {**TINY, "target_column": "size", "split": ("random",), "epochs": 6, "dropout": 0.2,
           "ensemble": 2}  # fmt: skip


def options(data_file, out, **more):
    return TrainOptions(input=str(data_file), out=str(out), **{**OPTIONS, **more})


def without_seconds(results):
    """What a run must reproduce: all but times."""
    networks = [
        {**n, "epochs": [{k: v for k, v in e.items() if k != "seconds"} for e in n["epochs"]]}
        for n in results["networks"]
    ]
    return json.dumps({**results, "networks": networks}, sort_keys=True)


def assert_same_run(first, second):
    one, two = (json.loads((out / "metrics.json").read_text()) for out in (first, second))
    assert without_seconds(one) == without_seconds(two)
    assert (first / "test_predictions.csv").read_bytes() == (
        second / "test_predictions.csv"
    ).read_bytes()
    for path in sorted((first / "model").glob("*.pt")):
        ours, theirs = load_weights(path), load_weights(second / "model" / path.name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def whole(data_file, tmp_path_factory, silence):
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(options(data_file, out), silence)
    return out


class Stop(Callback):
    """Ends the process's training after so many batches, as an error would."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, *_):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batches", [1, 4, 17])
def test_stopped_anywhere(batches, whole, data_file, tmp_path, silence, monkeypatch):
    """Within the first epoch, later, and in the second network; then once more."""
    out, fit = tmp_path / "run", training.fit
    for count in (batches, 7):
        stopped = partial(fit, callbacks=[Stop(count)])
        monkeypatch.setattr("plstm_graph.molecules.run.fit", stopped)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(options(data_file, out), silence)
        assert not (out / "metrics.json").exists()
    monkeypatch.setattr("plstm_graph.molecules.run.fit", fit)
    train(options(data_file, out), silence)
    assert_same_run(whole, out)


def test_killed(whole, data_file, tmp_path, silence):
    """By SIGKILL, in another process, which then has no chance to tidy up."""
    out = tmp_path / "run"
    found = options(data_file, out)
    path = tmp_path / "options.json"
    path.write_text(json.dumps(asdict(found)))
    code = (
        "import json, sys; from plstm_graph.molecules import TrainOptions, train; "
        "train(TrainOptions(**json.load(open(sys.argv[1]))))"
    )
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(out.glob("state/*/last.ckpt")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(found, silence)
    assert_same_run(whole, out)


def test_worker_processes_do_not_change_a_run(whole, data_file, tmp_path, silence):
    train(options(data_file, tmp_path / "run", workers=2), silence)
    assert_same_run(whole, tmp_path / "run")


def test_broken_states(data_file, tmp_path, silence, monkeypatch):
    out, stopped = tmp_path / "run", partial(training.fit, callbacks=[Stop(12)])
    monkeypatch.setattr("plstm_graph.molecules.run.fit", stopped)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(options(data_file, out), silence)
    (checkpoint,) = out.glob("state/*/last.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="as a checkpoint of this run, got a broken file"):
        train(options(data_file, out), silence)
    (out / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings.json as plstm-graph train wrote it"):
        train(options(data_file, out), silence)


def test_cache_and_memory_agree(whole, data_file, tmp_path, silence):
    cache = tmp_path / "cache"
    for name in ("first", "second"):  # made, then found
        train(options(data_file, tmp_path / name, cache=str(cache)), silence)
        assert_same_run(whole, tmp_path / name)
    assert len(list(cache.iterdir())) == 1


def test_two_first_users_of_a_cache(data_file, tmp_path):
    """At the same time, in two processes: both succeed, and one cache is left."""
    code = (
        "import sys; from plstm_graph.molecules import TrainOptions; "
        "from plstm_graph.molecules.data import load; "
        "from plstm_graph.molecules.console import Voice; "
        "print('ready', flush=True); sys.stdin.readline(); "
        "data = load(TrainOptions(input=sys.argv[1], target_column='size', out='run', "
        "cache=sys.argv[2]), Voice()); print(len(data.graphs), data.graphs[3].num_nodes)"
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, str(data_file), str(tmp_path / "cache")]
    users = [
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": root},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for user in users:
        assert user.stdout.readline() == "ready\n"
    for user in users:
        user.stdin.write("\n")
        user.stdin.flush()
    for user in users:
        out, _ = user.communicate(timeout=300)
        assert user.returncode == 0 and out.split()[-2:] == ["60", "5"], out
    (folder,) = (tmp_path / "cache").iterdir()
    assert (folder / "smiles.json").is_file()


def test_a_cache_that_lost_the_race_is_not_used(data_file, tmp_path, silence, monkeypatch):
    """The folder appears while this process fills its own: that one is read."""
    from plstm_graph.molecules import data as module

    found = options(data_file, tmp_path / "run", cache=str(tmp_path / "cache"))
    rename, calls = os.rename, []

    def late(source, target):
        if Path(target).parent == tmp_path / "cache":
            calls.append(target)
            shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", late)
    assert len(module.load(found, silence).graphs) == 60
    assert len(calls) == 1 and len(list((tmp_path / "cache").iterdir())) == 1
