"""The vision model: sizes, options, and that nothing ties it to the size it was built for."""

import pytest
import torch

from plstm_graph.nn import PLSTMVision
from plstm_graph.nn.patches import PatchEmbedding

SMALL = {"width": 16, "depth": 2, "heads": 2, "in_channels": 1}


def model_of(**options):
    torch.manual_seed(0)
    return PLSTMVision(8, 2, 3, **{**SMALL, **options})


@pytest.mark.parametrize("pooling", ["corners", "mean"])
@pytest.mark.parametrize("size", [(8, 8), (4, 8), (2, 2), (16, 12)])
def test_any_size(size, pooling):
    model = model_of(pooling=pooling)
    images = torch.rand(2, 1, *size)
    out = model(images)
    assert out.shape == (2, 3)
    assert model.features(images).shape == (2, size[0] // 2, size[1] // 2, 16)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_batch_equals_one_by_one():
    model = model_of().double()
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    single = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(model(images), single, atol=1e-12)


def test_axes_are_rows_and_columns():
    model = PLSTMVision((8, 8), (2, 4), 3, **SMALL)
    assert model.features(torch.rand(1, 1, 8, 8)).shape[1:3] == (4, 2)


def test_alternates_modes_and_reads_presets():
    assert [block.layer.mode for block in model_of(depth=3).blocks] == ["P", "D", "P"]
    tiny = PLSTMVision.preset("tiny", num_classes=10, depth=1, image_size=32)
    assert tiny.head.weight.shape == (10, 192) and tiny.blocks[0].layer.heads == 3
    assert tiny(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_published_size():
    """12 blocks of 192 channels are as large as ViT-T: 5.7 million parameters and 0.2 of gates."""
    count = sum(p.numel() for p in PLSTMVision.preset("tiny").parameters())
    assert 5.5e6 < count < 6.2e6


def test_position_embedding_is_interpolated():
    model = model_of()
    with torch.no_grad():
        model.embed.position.fill_(1.0)
        for block in model.blocks:
            block.layer.lin_out.weight.zero_()
            block.ffn[-1].weight.zero_()
    images = torch.zeros(1, 1, 16, 16)
    features = model.features(images)  # a constant stays one at any size
    assert torch.allclose(features, features[:, :1, :1].expand_as(features), atol=1e-5)
    assert model_of(position=False).embed.position is None


@pytest.mark.parametrize("patch", [1, 2, 5, 6, (2, 3), (1, 4), (12, 8)])
@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_stems(stem, patch):
    if (stem, patch) == ("conv", 1):
        with pytest.raises(ValueError, match="more than one pixel for stem 'conv'"):
            PatchEmbedding(4, patch, 2, 8, stem=stem)
        return
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    embed = PatchEmbedding((3 * rows, 2 * columns), patch, 2, 8, stem=stem)
    assert embed(torch.rand(4, 2, 3 * rows, 2 * columns)).shape == (4, 3, 2, 8)
    assert embed(torch.rand(1, 2, rows, 5 * columns)).shape == (1, 1, 5, 8)
    before = embed.stem.state_dict() if stem == "linear" else embed.stem[0].state_dict()
    before = {name: value.clone() for name, value in before.items()}
    embed.reset_parameters()
    after = embed.stem.state_dict() if stem == "linear" else embed.stem[0].state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("stem", ["linear", "conv"])
@pytest.mark.parametrize("modes", ["P", "D"])
def test_blank_patches_say_nothing_without_biases(modes, stem):
    """An image in the corner of a larger blank one: its own corner hears the same."""
    model = model_of(modes=modes, stem=stem, bias=False, position=False, depth=1, conv=0).double()
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    images[:, :, :2] = images[:, :, :, :2] = images[:, :, 6:] = images[:, :, :, 6:] = 0
    larger = torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    larger[:, :, :8, :8] = images
    small, large = model.features(images), model.features(larger)
    assert torch.allclose(large[:, :4, :4], small, atol=1e-10)
    assert (model.features(torch.zeros_like(larger)) == 0).all()
    biased = model_of(modes=modes, stem=stem, position=False, depth=1, conv=0).double()
    assert not torch.allclose(biased.features(larger)[:, :4, :4], biased.features(images))


def test_pooled_corners():
    model = model_of()
    images = torch.rand(2, 1, 8, 8)
    x = model.features(images)
    corners = torch.stack([x[:, i, j] for i in (0, 3) for j in (0, 3)]).mean(0)
    assert torch.allclose(model(images), model.head(corners), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": "PX"}, "pattern of 'P' and 'D'"),
        ({"pooling": "max"}, "pooling to be one of"),
        ({"stem": "fourier"}, "stem to be one of"),
        ({"heads": 3}, "width divisible by heads"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        model_of(**options)


def test_bad_sizes():
    with pytest.raises(ValueError, match="patches of 3 x 3 pixels divide, got 8 x 8"):
        PLSTMVision(8, 3, 2, **SMALL)
    with pytest.raises(ValueError, match="image_size as one or two positive integers"):
        PLSTMVision((8, 0), 2, 2, **SMALL)
    with pytest.raises(ValueError, match="name to be one of 'tiny', 'small', 'base'"):
        PLSTMVision.preset("huge")
    model = model_of()
    with pytest.raises(ValueError, match="divide, got 9 x 8; pad or resize"):
        model(torch.zeros(1, 1, 9, 8))
    with pytest.raises(ValueError, match="divide, got 0 x 8"):
        model(torch.zeros(1, 1, 0, 8))
    with pytest.raises(ValueError, match=r"\[B, 1, Y, X\], got torch.float32 \[1, 3, 8, 8\]"):
        model(torch.zeros(1, 3, 8, 8))
