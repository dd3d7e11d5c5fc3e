"""Folders of images of a user's own: what is read, and how, and what is reported."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import SPLITS, InputError, load_images
from datasets.image_files import decode

COLORS = {"blue": (0, 0, 250), "red": (250, 0, 0)}


def fill(folder, part, count, size=(12, 12), mode="RGB", suffix="png"):
    """``count`` plain images of each class."""
    for label, color in COLORS.items():
        (folder / part / label).mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGB", size, color).convert(mode)
            image.save(folder / part / label / f"{i}.{suffix}")


def load(folder, **options):
    return load_images(f"folder:{folder}", **options)


@pytest.mark.parametrize("valid", ["valid", "val"])
def test_folder(tmp_path, valid):
    for part, count in (("train", 5), (valid, 2), ("test", 3)):
        fill(tmp_path, part, count)
    (tmp_path / "train" / "red" / "more").mkdir()
    Image.new("RGB", (12, 12), (240, 0, 0)).save(tmp_path / "train" / "red" / "more" / "x.bmp")
    data = load(tmp_path)
    assert (data.classes, data.shape, data.notes) == (["blue", "red"], (3, 12, 12), [])
    assert [data.part(part)[1].tolist() for part in SPLITS] == [
        [0] * 5 + [1] * 6,
        [0, 0, 1, 1],
        [0, 0, 0, 1, 1, 1],
    ]
    for part in SPLITS:
        images, labels = data.part(part)
        assert torch.equal(images[:, 0] > 200, (labels == 1)[:, None, None].expand(-1, 12, 12))
    assert data.part("train")[0][-1, 0, 0, 0] == 240


def test_missing_parts_are_carved(tmp_path):
    fill(tmp_path, "train", 20)
    data = load(tmp_path)
    assert {part: data.part(part)[1].bincount().tolist() for part in SPLITS} == {
        "train": [16, 16],
        "valid": [2, 2],
        "test": [2, 2],
    }
    assert data.notes == [f"{part}: 4 images carved from training" for part in ("test", "valid")]


def test_bad_files_are_named_and_counted(tmp_path):
    fill(tmp_path, "train", 10)
    red = tmp_path / "train" / "red"
    (red / "Thumbs.db").write_bytes(b"no image")
    (red / "empty.png").touch()
    whole = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    (red / "cut.png").write_bytes(whole.read_bytes()[:200])
    Image.new("F", (12, 12)).save(red / "float.tif")
    (tmp_path / "train" / "list.txt").write_text("x")
    data = load(tmp_path)
    assert data.notes[0].startswith("5 of 25 files could not be read as images and are left out: ")
    for bad in (
        "train/red/Thumbs.db (not an image)",
        "train/red/empty.png (not an image)",
        "train/red/cut.png (image file is truncated",
        "train/red/float.tif (pixels of mode 'F', expected 8 or 16 bits)",
        "train/list.txt (in no class folder)",
    ):
        assert bad in data.notes[0]
    assert sum(len(data.part(part)[1]) for part in SPLITS) == 20


def test_grayscale_only_if_all_images_are(tmp_path):
    fill(tmp_path / "gray", "train", 10, mode="L")
    assert load(tmp_path / "gray").shape == (1, 12, 12)
    fill(tmp_path / "gray", "test", 1)
    data = load(tmp_path / "gray")
    assert data.shape == (3, 12, 12)
    assert (data.part("train")[0] == data.part("train")[0][:, :1]).all()


def test_image_size(tmp_path):
    fill(tmp_path, "train", 10)
    fill(tmp_path, "test", 1, size=(40, 20), suffix="jpg")
    with pytest.raises(InputError, match=r"2 sizes from 12 x 12 to 20 x 40 .*pass image_size"):
        load(tmp_path)
    data = load(tmp_path, image_size=16)
    assert data.shape == (3, 16, 16)
    assert data.part("test")[0][1].float().mean((1, 2)).tolist() == pytest.approx(
        [250, 0, 0], abs=3
    )


def test_decode_crops_the_longer_axis(tmp_path):
    image = np.zeros((4, 8), dtype=np.uint8)
    image[:, 2:6] = 200
    path = tmp_path / "x.png"
    Image.fromarray(image).save(path)
    assert decode(path, 4).tolist() == [[200] * 4] * 4
    assert decode(path).tolist() == image.tolist()


def test_decode_modes(tmp_path):
    def saved(image, **options):
        image.save(tmp_path / "x.png", **options)
        return decode(tmp_path / "x.png").tolist()

    deep = np.array([[0, 256, 65535]], dtype=np.uint16)
    assert saved(Image.fromarray(deep)) == [[0, 1, 255]]
    assert saved(Image.fromarray(np.array([[False, True]]))) == [[0, 255]]
    # Red over nothing, over half, over all: what is transparent is white.
    alpha = np.array([[[255, 0, 0, 0], [255, 0, 0, 128], [255, 0, 0, 255]]], dtype=np.uint8)
    assert saved(Image.fromarray(alpha)) == [[[255, 255, 255], [255, 127, 127], [255, 0, 0]]]
    assert saved(Image.fromarray(np.array([[[0, 0], [0, 255]]], dtype=np.uint8))) == [[255, 0]]
    palette = Image.fromarray(alpha[..., :3]).quantize(2)
    assert saved(palette) == [[[255, 0, 0]] * 3]
    # Orientation 6: to be turned clockwise by a quarter.
    exif = Image.Exif()
    exif[0x0112] = 6
    row = Image.fromarray(np.array([[10, 20, 30]], dtype=np.uint8))
    assert saved(row, exif=exif) == [[10], [20], [30]]


def test_errors(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder train with one folder.*got none"):
        load(tmp_path / "nowhere")
    fill(tmp_path, "train", 1)
    with pytest.raises(InputError, match=r"enough training images of class 'blue'.*got 1 left"):
        load(tmp_path)
    fill(tmp_path, "val", 1)
    (tmp_path / "test" / "green").mkdir(parents=True)
    with pytest.raises(InputError, match=r"got none in test, train/green; add some"):
        load(tmp_path)
    (tmp_path / "valid").mkdir()
    with pytest.raises(InputError, match="one of the folders valid and val"):
        load(tmp_path)


def test_all_bad(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "x.png").write_text("no image")
    with pytest.raises(
        InputError,
        match=r"got none in train, train/a, train/b; .* 2 of 2 files could not be read .*"
        r"train/a/x.png \(not an image\), train/b/x.png \(not an image\)",
    ):
        load(tmp_path)
