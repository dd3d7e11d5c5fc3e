"""Image classification from end to end, and the models and batches it is made of."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import grid_images, reporting
from experiments.image_figures import gating_fields
from experiments.image_training import ImageBatches, ImageModule
from experiments.models import count_parameters
from experiments.vision_models import NAMES, VisionConfig, build, match_budget

TINY = ["--width", "16", "--depth", "2", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    config = out / "settings.yaml"
    config.write_text("batch_size: 16\npooling: corners\naugment: shift+flip\n")
    return out, grid_images.main(["--config", str(config), *TINY, "--quick", "--out", str(out)])


def test_what_a_run_leaves(trained):
    out, results = trained
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(results))
    for file in ("curves.png", "predictions.png", "receptive_field.png"):
        assert (out / file).stat().st_size > 5000
    for name in NAMES:
        assert (out / "checkpoints" / f"{name}.ckpt").is_file()
        assert (out / "logs" / name / "csv" / "metrics.csv").is_file()
        assert list((out / "logs" / name / "tensorboard").glob("events*"))
    assert str(out) not in (out / "metrics.json").read_text()


def test_metrics(trained):
    _, results = trained
    assert results["dataset"] == "digits" and results["seed"] == 0 and results["versions"]["torch"]
    assert results["images"] == {"train": 128, "valid": 128, "test": 128}
    assert set(results["models"]) == set(NAMES)
    for name, model in results["models"].items():
        curve = results["curves"][name]
        assert len(curve) == model["epochs"] == 2
        best = max(epoch["valid_accuracy"] for epoch in curve)
        assert model["best_valid_accuracy"] == pytest.approx(best)
        assert 0 <= model["test"]["accuracy"] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_is_enough_to_predict(trained, name):
    out, results = trained
    checkpoint = out / "checkpoints" / f"{name}.ckpt"
    module = ImageModule.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    data = grid_images.datasets.load_images("digits")
    images, labels = data.part("test", 128)
    with torch.no_grad():
        accuracy = (module(images).argmax(1) == labels).float().mean()
    assert float(accuracy) == pytest.approx(results["models"][name]["test"]["accuracy"])


def test_plstm_learns_digits(tmp_path):
    more = ["--models", "plstm", "--epochs", "8", "--lr", "0.01", "--limit", "320"]
    results = grid_images.main([*TINY, *more, "--augment", "none", "--out", str(tmp_path)])
    curve = results["curves"]["plstm"]
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    assert results["models"]["plstm"]["best_valid_accuracy"] > 0.3


@pytest.mark.parametrize(
    "shape, sizes",
    [
        ((1, 8, 8), {"patch": 2, "width": 64, "depth": 4, "heads": 2}),
        ((1, 28, 28), {"patch": 4, "width": 64, "depth": 4, "heads": 2}),
        ((3, 32, 32), {"patch": 4, "width": 128, "depth": 8, "heads": 4}),
        ((3, 48, 64), {"patch": 8, "width": 64, "depth": 3, "heads": 4}),
    ],
)
def test_baselines_meet_the_budget(shape, sizes):
    channels, *sides = shape
    plstm = VisionConfig("plstm", tuple(sides), channels, 10, **sizes)
    budget = count_parameters(build(plstm))
    for name in ("vit", "cnn"):
        config = match_budget(VisionConfig(name, tuple(sides), channels, 10, **sizes), budget)
        net = build(config)
        assert count_parameters(net) == pytest.approx(budget, rel=0.05)
        assert net(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_vit_at_other_sizes(pooling):
    net = build(VisionConfig("vit", (8, 8), 1, 3, 2, 16, 2, 2, pooling))
    for size in ((8, 8), (16, 12)):
        assert net(torch.rand(2, 1, *size)).shape == (2, 3)


def test_batches_of_each_epoch():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 6, 4)
    batches = ImageBatches(images, torch.arange(10), 4, seed=0)
    first = [batches[i] for i in range(len(batches))]
    labels = torch.cat([batch[1] for batch in first])
    assert [len(batch[1]) for batch in first] == [4, 4, 2]
    assert sorted(labels.tolist()) == list(range(10)) and labels.tolist() != list(range(10))
    assert all((x == y[:, None, None, None]).all() for x, y in first)
    batches.set_epoch(1)
    assert torch.cat([batches[i][1] for i in range(3)]).tolist() != labels.tolist()
    batches.set_epoch(0)
    assert torch.equal(batches[0][1], first[0][1])
    plain = ImageBatches(images, torch.arange(10), 4)
    assert plain[2][1].tolist() == [8, 9]


def test_augmentation_moves_and_mirrors_whole_images():
    image = torch.zeros(1, 7, 9, dtype=torch.uint8)
    image[0, 3, 4], image[0, 3, 5] = 100, 200  # a pair of pixels, looking right
    batches = ImageBatches(image.expand(200, 1, 7, 9), torch.zeros(200), 200, 0, 2, True)
    shown = batches[0][0]
    assert shown.shape == (200, 1, 7, 9) and shown.dtype == torch.uint8
    assert (shown.flatten(1).long().sum(1) == 300).all()  # nothing is lost this far from the edge
    right = (shown[..., 1:] == 200) & (shown[..., :-1] == 100)
    found = right.any(-1).any(-1).float().mean()
    assert 0.35 < found < 0.65
    down, across = (shown[:, 0] == 100).nonzero()[:, 1:].unbind(1)
    assert set(down.tolist()) == {1, 2, 3, 4, 5} and set(across.tolist()) == {2, 3, 4, 5, 6}


def test_gating_fields_are_those_of_the_layers(trained):
    out, _ = trained
    checkpoint = out / "checkpoints" / "plstm.ckpt"
    module = ImageModule.load_from_checkpoint(checkpoint, map_location="cpu")
    image = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    fields, grid = gating_fields(module, image)
    assert grid == (4, 4)
    assert list(fields) == ["P-mode (block 1)", "D-mode (block 2)", "both (sum)"]
    net = module.net
    with torch.no_grad():
        x = (image[None] / 255 - module.pixels[0]) / module.pixels[1]
        expected = net.blocks[0].layer.gating(net.blocks[0].norm(net.embed(x)))[0].abs().mean(0)
    torch.testing.assert_close(fields["P-mode (block 1)"], expected)


def test_folder_of_colour_images(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    args = ["--dataset", f"folder:{tmp_path / 'pets'}", "--image-size", "16", "--quick", *TINY]
    results = grid_images.main([*args, "--models", "plstm", "--out", str(tmp_path / "out")])
    assert results["classes"] == ["cat", "dog"] and results["dataset"] == "pets"
    assert results["models"]["plstm"]["config"]["patch"] == 2
    assert str(tmp_path) not in (tmp_path / "out" / "metrics.json").read_text()


@pytest.mark.parametrize(
    "sides, expected", [((28, 28), 4), ((32, 32), 4), ((224, 224), 16), ((7, 9), 1), ((64, 96), 8)]
)
def test_default_patch(sides, expected):
    assert grid_images.default_patch(*sides) == expected


@pytest.mark.parametrize(
    "args, message",
    [
        (["--dataset", "svhn"], "expected an image set of digits, mnist, cifar10, folder:PATH"),
        (["--dataset", "folder:nowhere"], "expected a folder train"),
        (["--models", "plstm,mlp"], "expected models out of plstm, vit, cnn"),
        (["--augment", "cutmix"], "expected augment out of none, shift"),
        (["--patch", "3"], "patches of 3 x 3 pixels divide, got 8 x 8"),
        (["--modes", "PX"], "expected modes as a pattern"),
        (["--heads", "3"], "width divisible by heads"),
    ],
)
def test_errors_are_messages(args, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        grid_images.main([*args, "--out", str(tmp_path)])


def test_recorded_command_has_no_absolute_paths(monkeypatch):
    words = [
        "--dataset",
        "folder:/home/me/pets",
        "--out=/tmp/a b/c",
        "/x",
        "runs/a",
        "--lr",
        "1e-3",
    ]
    monkeypatch.setattr("sys.argv", ["/usr/bin/tool", *words])
    assert reporting.command_line().endswith("--dataset folder:pets --out=c x runs/a --lr 1e-3")
