"""Image sets: digits always, MNIST and CIFAR-10 where their files lie, folders made here."""

import io
import sys
import tarfile
import types

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from datasets import SPLITS, ImageDataset, InputError, as_float, load_images


def check(data, shape, sizes):
    """What holds for every set."""
    assert isinstance(data, ImageDataset) and tuple(data.parts) == SPLITS
    assert data.shape == shape
    for part, size in zip(SPLITS, sizes):
        images, labels = data.part(part)
        assert images.shape == (size, *shape) and images.dtype == torch.uint8
        assert labels.shape == (size,) and labels.dtype == torch.int64
        assert set(labels.tolist()) == set(range(len(data.classes)))
    images = data.part("train", 10_000)[0]
    assert as_float(images).max() == 1 and as_float(images).dtype == torch.float32
    normal = data.normalise(images)
    assert normal.mean((0, 2, 3)).tolist() == pytest.approx([0] * shape[0], abs=0.02)
    assert normal.std((0, 2, 3)).tolist() == pytest.approx([1] * shape[0], abs=0.02)


def test_digits():
    data = load_images()
    check(data, (1, 8, 8), (1437, 180, 180))
    assert data.classes == list("0123456789")
    assert data.notes == [f"{part}: 180 images carved from training" for part in ("test", "valid")]
    images = torch.cat([data.part(part)[0] for part in SPLITS])
    assert sorted(set(images.flatten().tolist())) == [round(i * 255 / 16) for i in range(17)]
    # Disjoint and complete: each of the images once, with its label.
    raw = load_digits()

    def listed(pixels, labels):
        return sorted(zip(map(bytes, pixels), labels.tolist()))

    original = np.round(raw.images * 255 / 16).astype(np.uint8)
    labels = torch.cat([data.part(part)[1] for part in SPLITS])
    assert listed(images.numpy(), labels) == listed(original, raw.target)
    for part in SPLITS:  # the classes in proportion
        counts = torch.bincount(data.part(part)[1]) / len(data.part(part)[1])
        assert counts.tolist() == pytest.approx((np.bincount(raw.target) / 1797).tolist(), abs=0.01)
    pixels = as_float(data.part("train")[0]).double()
    assert data.mean.tolist() == pytest.approx([pixels.mean().item()], abs=1e-6)
    assert data.std.tolist() == pytest.approx([pixels.std(correction=0).item()], abs=1e-6)


def test_the_split_is_fixed():
    first, second = load_images("digits"), load_images("digits")
    assert all(torch.equal(first.part(part)[0], second.part(part)[0]) for part in SPLITS)
    assert len(load_images("digits", valid=0.2).part("valid")[1]) == 359


def test_a_limit_keeps_the_classes():
    parts = {part: (torch.zeros(90, 1, 2, 2).byte(), torch.arange(90) // 30) for part in SPLITS}
    data = ImageDataset("ordered", parts, list("abc"))
    assert data.part("test", 6)[1].tolist() == [0, 0, 1, 1, 2, 2]
    assert data.part("test", 6)[0].shape == (6, 1, 2, 2)
    assert len(data.part("test", 0)[1]) == 0
    assert len(data.part("test", 91)[1]) == len(data.part("test")[1]) == 90
    assert data.normalise(data.part("train")[0]).eq(0).all()  # of constant images


@pytest.fixture(scope="module")
def root(shared_data, tmp_path_factory):
    """A data root of its own, so that caches are not written beside the shared files."""
    root = tmp_path_factory.mktemp("images")
    (root / "images").mkdir()
    for path in (shared_data / "images").iterdir():
        (root / "images" / path.name).symlink_to(path)
    return root


def test_mnist(root):
    data = load_images("mnist", root)
    check(data, (1, 28, 28), (54_000, 6_000, 10_000))
    counts = data.part("test")[1].bincount().tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.mean.item() == pytest.approx(0.1307, abs=1e-3)


def test_cifar10(root, monkeypatch):
    data = load_images("cifar10", root)
    check(data, (3, 32, 32), (45_000, 5_000, 10_000))
    assert data.classes[:3] == ["airplane", "automobile", "bird"] and data.classes[9] == "truck"
    assert data.mean.tolist() == pytest.approx([0.491, 0.482, 0.447], abs=2e-3)
    assert torch.bincount(data.part("test")[1]).tolist() == [1000] * 10

    def refuse(*_):
        raise AssertionError("the archive must be decoded once")

    monkeypatch.setattr("datasets.image_sets.read_archive", refuse)
    again = load_images("cifar10", root)
    assert torch.equal(again.part("valid")[0], data.part("valid")[0])
    assert again.notes == data.notes and again.classes == data.classes


def jpeg(color):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(file, "JPEG")
    return file.getvalue()


def write_archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


COLORS = {"car": (200, 0, 0), "cat": (0, 200, 0)}
FILES = {
    f"{part}/{label}/{i}.jpg": jpeg((*color[:2], 20 * i))
    for part in ("test", "train")
    for i in range(4)
    for label, color in COLORS.items()
}


def test_cifar10_archive(tmp_path, monkeypatch):
    """Order, bad members, and the cache in the home where the folder is read-only."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = tmp_path / "images" / "cifar10_jpeg.tar.xz"
    write_archive(source, {"README": b"text", **FILES, "test/cat/9.jpg": b"no image"})
    source.parent.chmod(0o555)
    try:
        data = load_images("cifar10", tmp_path)
        assert [path.name for path in source.parent.iterdir()] == [source.name]
    finally:
        source.parent.chmod(0o755)
    assert len(list((tmp_path / "home/.cache/plstm_graph/images").glob("cifar10_v*.npz"))) == 1
    images, labels = data.part("test")
    assert labels.tolist() == [0] * 4 + [1] * 4 and data.classes == ["car", "cat"]
    blue = images[:, 2].float().mean((1, 2))
    assert blue.tolist() == pytest.approx([0, 20, 40, 60] * 2, abs=3)
    assert "1 of 17 files could not be read" in data.notes[1]
    assert "test/cat/9.jpg (not an image)" in data.notes[1]


def test_cifar10_archive_errors(tmp_path):
    source = tmp_path / "images" / "cifar10_jpeg.tar.xz"
    write_archive(source, FILES)
    whole = source.read_bytes()
    for broken in (whole[: len(whole) // 2], b"nothing like an archive"):
        source.write_bytes(broken)
        with pytest.raises(InputError, match=r"expected a tar archive.*cifar10_jpeg.*download"):
            load_images("cifar10", tmp_path)
    write_archive(source, {name: file for name, file in FILES.items() if "train" in name})
    with pytest.raises(InputError, match=r"expected images train/CLASS/.*got none of test"):
        load_images("cifar10", tmp_path)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_mnist_without_an_array(tmp_path):
    (tmp_path / "images").mkdir()
    np.savez(tmp_path / "images" / "mnist.npz", train_x=np.zeros(1), train_y=np.zeros(1))
    with pytest.raises(InputError, match=r"got no test_x, test_y"):
        load_images("mnist", tmp_path)


@pytest.mark.parametrize("name, file", [("mnist", "mnist.npz"), ("cifar10", "cifar10_jpeg.tar")])
def test_missing_files(tmp_path, monkeypatch, name, file):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match=rf"expected the file .*images/{file}.*torchvision"):
        load_images(name, tmp_path)


def test_torchvision(tmp_path, monkeypatch):
    """Its two classes stood in for: they hold ``data``, ``targets`` and ``classes``."""
    asked = []

    def stand_in(data, targets):
        def load(root, train, download):
            asked.append((root, train, download))
            return types.SimpleNamespace(data=data, targets=targets, classes=["a", "b"])

        return load

    rng = np.random.default_rng(0)
    grey = torch.from_numpy(rng.integers(0, 256, (40, 28, 28), dtype=np.uint8))
    color = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    module = types.ModuleType("torchvision")
    module.datasets = types.SimpleNamespace(
        MNIST=stand_in(grey, torch.tensor([0, 1] * 20)), CIFAR10=stand_in(color, [0, 1] * 20)
    )
    monkeypatch.setitem(sys.modules, "torchvision", module)
    data = load_images("mnist", tmp_path)
    assert data.shape == (1, 28, 28) and torch.equal(data.part("test")[0][:, 0], grey)
    data = load_images("cifar10", tmp_path)
    assert data.shape == (3, 32, 32) and data.classes == ["a", "b"]
    assert np.array_equal(data.part("test")[0].permute(0, 2, 3, 1).numpy(), color)
    assert set(asked) == {(str(tmp_path / "images"), train, True) for train in (True, False)}


def test_unknown_and_useless_arguments(tmp_path):
    with pytest.raises(InputError, match=r"digits, mnist, cifar10, folder:PATH, got 'svhn'"):
        load_images("svhn")
    with pytest.raises(InputError, match="image_size with folder:PATH only"):
        load_images("digits", image_size=8)
    with pytest.raises(InputError, match="positive image_size, got 0"):
        load_images(f"folder:{tmp_path}", image_size=0)
    with pytest.raises(InputError, match=r"valid between 0 and 0.5, got 0\.5"):
        load_images("digits", valid=0.5)
