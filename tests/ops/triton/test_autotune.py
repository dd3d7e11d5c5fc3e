"""The choice of configurations."""

import pytest
import torch

pytest.importorskip("triton")

from plstm_graph.ops.triton import autotune, scan
from plstm_graph.ops.triton.autotune import Config, pick
from tests.ops.triton.helpers import payload
from tests.zoo import ZOO


def test_nothing_is_timed_where_kernels_are_interpreted(device, monkeypatch):
    if device.type != "cpu":
        pytest.skip("kernels are compiled here")
    monkeypatch.setattr(autotune, "_save", None)
    line_graph = ZOO["fork"]()
    x, t = payload(line_graph, 1, 40, dtype=torch.float32)
    assert len(scan.configs_for(40, 1, torch.float32)) > 1
    scan.triton_dag_scan(x, t, line_graph)


def test_the_choice_is_timed_once_and_kept(monkeypatch, tmp_path):
    """Timing itself needs a GPU: its result is given here."""
    import triton.testing

    configs = [Config(1, 16), Config(2, 16), Config(4, 16)]
    seconds = {configs[0]: 3.0, configs[1]: 1.0, configs[2]: 2.0}
    runs = []

    def launch(config):
        runs.append(config)

    def do_bench(function, **_):
        function()
        return seconds[runs[-1]]

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    monkeypatch.setattr(autotune, "_may_time", lambda device: True)
    monkeypatch.setattr(autotune, "_file", lambda device: tmp_path / "choices" / "gpu.json")
    autotune._cache.cache_clear()
    device = torch.device("cuda")
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    assert runs == configs
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    assert len(runs) == 3
    autotune._cache.cache_clear()  # a new process reads the file
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    assert len(runs) == 3
    assert pick(("scan", 64), [configs[0], configs[2]], launch, device) == configs[2]
    assert len(runs) == 5, "the stored configuration is not a candidate, so they are timed again"
    (tmp_path / "choices" / "gpu.json").write_text("not JSON")
    autotune._cache.cache_clear()
    assert pick(("scan", 64), configs, launch, device) == configs[1]
    autotune._cache.cache_clear()


def test_deterministic_mode_takes_defaults(monkeypatch):
    """Some choices change the order of sums."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    device = torch.device("cuda")
    torch.use_deterministic_algorithms(True)
    assert not autotune._may_time(device)
    torch.use_deterministic_algorithms(False)
    assert autotune._may_time(device)


def test_autotuning_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("PLSTM_AUTOTUNE", "0")
    configs = [Config(1, 16), Config(2, 16)]
    assert pick(("scan",), configs, pytest.fail, torch.device("cuda")) == configs[0]
