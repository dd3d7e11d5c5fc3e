"""Neural architectures: the graphs of a few rows by hand, the split, and the whole file."""

import random

import pytest
import torch

from datasets import InputError, na

LINE = "[[1], [4, 0], [5, 1, 0], [0, 1, 0, 1]], 0.7302"


def test_graph_by_hand():
    graph = na.to_graph([[1], [4, 0], [5, 1, 0], [0, 1, 0, 1]], 0.7302)
    assert graph.x.argmax(1).tolist() == [0, 3, 6, 7, 2, 1]
    assert graph.x.sum(1).tolist() == [1.0] * 6 and graph.x.shape == (6, 8)
    assert set(zip(*graph.edge_index.tolist())) == {
        *((i, i + 1) for i in range(5)),  # always there
        (0, 3),  # the first link of row 2
        (0, 4),  # of row 3
        (2, 4),
    }
    assert graph.edge_index.size(1) == 8  # no edge twice
    assert graph.accuracy.item() == pytest.approx(0.7302)


def test_split():
    rows = list(range(200))
    random.Random(0).shuffle(rows)
    split = na.published_split(200)
    assert torch.cat([split["train"], split["valid"]]).tolist() == rows[:180]
    assert split["test"].tolist() == rows[180:]
    assert len(split["valid"]) == 10


def write(root, lines):
    (root / "na").mkdir()
    (root / "na" / na.FILE).write_text("".join(f"{line}\n" for line in lines))


def test_burn_in_and_standardised_target(tmp_path):
    lines = [LINE.replace("0.7302", f"{0.7 + i / 1000}") for i in range(40)]
    write(tmp_path, ["not even read"] * na.BURN_IN + lines)
    data = na.load(tmp_path)
    assert len(data.graphs) == 40 and data.task == "regression" and not data.molecular
    y = data.targets("train")
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    assert y.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    accuracy = torch.cat([graph.accuracy for graph in data.part("test")])
    trained = torch.cat([graph.accuracy for graph in data.part("train")])
    expected = (accuracy - trained.mean()) / trained.std(correction=0)
    torch.testing.assert_close(data.targets("test"), expected, rtol=1e-3, atol=1e-4)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"got no such file; put final_structures6.txt there"):
        na.load(tmp_path)


def test_too_short(tmp_path):
    write(tmp_path, [LINE] * 1005)
    with pytest.raises(InputError, match=r"more than 1000 lines .* got 5 after them"):
        na.load(tmp_path)


def test_equal_accuracies(tmp_path):
    write(tmp_path, [LINE] * 1040)
    with pytest.raises(InputError, match=r"accuracies that differ .* got 0.7302 only"):
        na.load(tmp_path)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("[[1], [4, 0]]", "not enough values"),
        ("[[1], [4, 0]], 0.7, 1", "too many values"),
        ("[[1], [4, 0], 0.7", "delimiter"),  # no JSON
        ("[[1], [4]], 0.7", "row 1 needs an operation from 0 to 5 and 1 links"),
        ("[[1], [6, 0]], 0.7", "row 1 needs an operation from 0 to 5"),
        ("[[1], [4, 2]], 0.7", "row 1 needs .* links of 0 or 1"),
        ("[1, 2], 0.7", "has no len"),
        ("[], 0.7", "at least one row"),
        ("[[1]], NaN", "finite accuracy"),
        ('[[1]], "good"', "must be real number"),
    ],
)
def test_malformed_line(tmp_path, line, reason):
    path = tmp_path / "some.txt"
    path.write_text(f"{LINE}\n{LINE}\n{line}\n{LINE}\n")
    with pytest.raises(InputError, match=rf"(?s)in line 3 of .*{reason}"):
        na.read(path, burn_in=0)


def test_whole_file(shared_data):
    data = na.load(shared_data)  # it is only read
    assert {part: len(rows) for part, rows in data.split.items()} == {
        "train": 16_167,
        "valid": 951,
        "test": 1_902,
    }
    for graph in data.graphs[::500]:
        src, dst = graph.edge_index
        assert graph.num_nodes == 8 and (src < dst).all()
        assert set(zip(src.tolist(), dst.tolist())) >= {(i, i + 1) for i in range(7)}
