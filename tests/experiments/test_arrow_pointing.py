"""The arrow-pointing study: it goes on where it was stopped, and its report adds up."""

import json

import pytest
import torch

import datasets
from experiments import arrow_pointing, resuming
from experiments.arrow_runs import ArrowBatches
from experiments.image_training import ImageModule
from experiments.reporting import write_json
from experiments.training import chosen_epoch
from tests.experiments.stopping import cut_off

TINY = ["--accelerator", "cpu", "--width", "8", "--depth", "2", "--patch", "8", "--lr", "0.01"]
TINY += ["--image_size", "32", "--scale", "0.15", "--heads", "2"]


def run(out, *more):
    sizes = ["--train_size", "48", "--batch_size", "16", "--valid_size", "16", "--test_size", "16"]
    return arrow_pointing.main([*TINY, *sizes, "--epochs", "3", "--out", str(out), *more])


def values(result):
    """All that is recorded of each epoch but its time."""
    return [
        {key: value for key, value in epoch.items() if "seconds" not in key}
        for epoch in result["epochs"]
    ]


@pytest.mark.parametrize("variant", ["P+D", "ViT"])
def test_stopped_run_ends_like_an_uninterrupted_one(variant, tmp_path, monkeypatch):
    more = ["--variants", variant, "--seeds", "1"]
    (whole,) = run(tmp_path / "whole", *more)
    assert whole["finished"] and len(whole["epochs"]) == 3
    assert len({epoch["loss"] for epoch in whole["epochs"]}) == 3
    out = tmp_path / "stopped"
    cut_off(monkeypatch, ImageModule, lambda: run(out, *more))
    (path,) = out.glob("*.json")
    half = json.loads(path.read_text())
    assert not half["finished"] and half["epochs_done"] == 2
    (resumed,) = run(out, *more)
    assert resumed["finished"] and values(resumed) == values(whole)
    for key in ("test_accuracy", "ext_accuracy", "best_epoch"):
        assert resumed[key] == whole[key]
    states = [
        torch.load(folder / path.stem / "last.ckpt", weights_only=False)["state_dict"]
        for folder in (tmp_path / "whole", out)
    ]
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name

    written = path.read_text()
    with monkeypatch.context() as patch:  # finished ones are left alone
        patch.setattr(resuming, "make_trainer", None)
        run(out, *more)
    assert path.read_text() == written
    with pytest.raises(SystemExit, match=r"same settings.*protocol.*another --out"):
        run(out, *more, "--lr", "0.1")
    path.unlink()  # without it nobody knows what the checkpoint is of
    (again,) = run(out, *more)
    assert values(again) == values(whole)


def test_all_variants_and_report(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("position: true\nseeds: 1\nbatch_size: 32\n")
    out = tmp_path / "out"
    sizes = ["--image_size", "48", "--scale", "0.25", "--patch", "16"]
    arrow_pointing.main(["--config", str(config), *TINY, *sizes, "--quick", "--out", str(out)])
    result = arrow_pointing.main(["report", str(out)])
    assert list(result["variants"]) == list(arrow_pointing.VARIANTS)
    for row in result["variants"].values():
        assert row["seeds"] == [1] and row["finished"] == 1 and row["epochs_done"] == [2]
    assert result["settings"]["data"]["image_size"] == 48
    assert "Arrow pointing, 48 and 96 pixels" in capsys.readouterr().out
    for name in ("report.json", "report.md", "curves.png"):
        assert (out / name).stat().st_size > 500
    checkpoint = out / "no_position_seed1" / "best.ckpt"
    module = ImageModule.load_from_checkpoint(checkpoint, map_location="cpu")
    assert module.net.embed.position is None
    options = json.loads((out / "d_seed1.json").read_text())["model"]["options"]
    assert options["position"] and options["modes"] == "D"
    images = torch.full((2, 1, 96, 96), 255, dtype=torch.uint8)
    assert module(images).shape == (2, 2)
    assert str(tmp_path) not in (out / "p_seed1.json").read_text()


def fabricated(variant, seed, valid, test, ext, epochs=2):
    rows = [
        {"valid_accuracy": v, "test_accuracy": a, "ext_accuracy": e, "train_seconds": 2.0}
        for v, a, e in zip(valid, test, ext)
    ]
    best = chosen_epoch(rows, "valid_accuracy", "max")
    return {
        "variant": variant,
        "seed": seed,
        "data": {"image_size": 32, "scale": 1 / 6, "train_size": 100 + seed},
        "protocol": {"epochs": epochs, "seed": seed},
        "parameters": 1000,
        "finished": len(rows) == epochs,
        "epochs_done": len(rows),
        "best_epoch": best + 1,
        "test_accuracy": test[best],
        "ext_accuracy": ext[best],
        "train_images_per_second": 50.0,
        "epochs": rows,
    }


def test_report_of_known_results(tmp_path, capsys):
    for i, test in enumerate((0.8, 0.9, 1.0)):
        # The best epoch by validation is the first; that of the best test accuracy does not count.
        result = fabricated("P+D", i, [0.9, 0.9], [test, 1.0], [0.6, 0.99])
        write_json(tmp_path / f"pd_seed{i}.json", result)
    write_json(tmp_path / "vit_seed4.json", fabricated("ViT", 4, [0.7], [0.75], [0.5]))
    # Not a line of the table before its first epoch.
    write_json(tmp_path / "d_seed0.json", {"variant": "D", "seed": 0, "epochs_done": 0})
    result = arrow_pointing.main(["report", str(tmp_path)])
    plstm, vit = result["variants"]["P+D"], result["variants"]["ViT"]
    assert plstm["test"] == pytest.approx(0.9) and plstm["ext"] == pytest.approx(0.6)
    # t(0.95, 2 degrees of freedom) = 2.920; standard deviation 0.1, 3 seeds.
    assert plstm["test_half_width"] == pytest.approx(2.920 * 0.1 / 3**0.5, abs=1e-4)
    assert plstm["ext_half_width"] == pytest.approx(0, abs=1e-12)
    assert vit["test"] == 0.75 and vit["test_half_width"] is None and vit["finished"] == 0
    assert list(result["variants"]) == ["P+D", "ViT"]
    assert result["settings"]["data"] == {"image_size": 32, "scale": 1 / 6}  # what all share
    text = (tmp_path / "report.md").read_text()
    assert "| P+D | 0.900 ± 0.169 | 0.600 ± 0.000 | 0.972 / 0.778 | 3 | 2/2 |" in text
    assert "| ViT * | 0.750 | 0.500 | 0.915 / 0.707 | 1 | 1/2 |" in text
    assert "a rule that sees the arrow alone" in text
    assert "0.900 ± 0.169" in capsys.readouterr().out


def test_epochs_have_fresh_images_and_evaluation_sets_are_fixed():
    train = ArrowBatches(datasets.ArrowPointing("train", 10, 32, 1 / 6), 4)
    assert [len(train[i][1]) for i in range(len(train))] == [4, 4, 2]
    first = train[0][0]
    train.set_epoch(1)
    assert not torch.equal(train[0][0], first)
    train.set_epoch(0)
    assert torch.equal(train[0][0], first)


@pytest.mark.parametrize(
    "args, message",
    [
        (["--variants", "P+D,LSTM"], r"expected variants out of P\+D, P, D.*got \['LSTM'\]"),
        (["--seeds", "0,one"], "expected seeds as integers separated by commas, got '0,one'"),
        (["--scale", "1"], "image_size of at least 180 pixels for scale 1, got 96"),
        (["--patch", "5"], "patches of 5 x 5 pixels divide, got 96 x 96"),
        (["--train_size", "0"], "all sizes of 1 or more"),
        (["report", "nowhere"], "got nowhere: no folder"),
        (["report", "."], "expected results VARIANT_seedN.json"),
    ],
)
def test_errors_are_messages(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        arrow_pointing.main(args)
