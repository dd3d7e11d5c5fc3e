import sys

import numpy as np
import pytest
import torch

from plstm_graph import viz
from plstm_graph.viz import draw_dag, draw_line_graph, layout
from tests.zoo import ZOO, from_edges

zoo = pytest.mark.parametrize("name", ZOO)


@pytest.fixture
def ax():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    yield ax
    figure.canvas.draw()  # whatever was added can be drawn
    pyplot.close(figure)


# -------------------------------------------------------------------- drawing


def arrows(ax) -> list:
    from matplotlib.patches import FancyArrowPatch

    return [p for p in ax.patches if isinstance(p, FancyArrowPatch)]


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith("everything")])
def test_draws_every_graph(name, ax):
    g = ZOO[name]()
    assert draw_dag(g, ax=ax) is ax
    assert len(arrows(ax)) == g.num_edges
    assert [t.get_text() for t in ax.texts] == [str(n) for n in range(g.num_nodes)]
    assert len(ax.collections[0].get_offsets()) == g.num_nodes
    ax.clear()
    assert draw_line_graph(g, ax=ax) is ax
    assert len(arrows(ax)) == g.num_edges + g.num_line_edges
    dashed = [a for a in arrows(ax) if a.get_linestyle() not in ("-", "solid")]
    assert len(dashed) == g.num_line_edges - g.multitree().num_line_edges
    assert len(ax.collections[0].get_offsets()) == g.num_edges


def test_levels_have_their_colours(ax):
    g = ZOO["diamond"]()
    draw_dag(g, ax=ax)
    color = [tuple(a.get_edgecolor()) for a in arrows(ax)]
    for a in range(g.num_edges):
        for b in range(g.num_edges):
            assert (color[a] == color[b]) == bool(g.level[a] == g.level[b])
    ax.clear()
    draw_dag(g, ax=ax, edge_color="red")
    assert {tuple(a.get_edgecolor()) for a in arrows(ax)} == {(1.0, 0.0, 0.0, 1.0)}


def test_dots_are_in_the_middle_and_parallel_edges_apart(ax):
    g = from_edges([(0, 1), (1, 2), (1, 2)], 3)
    draw_line_graph(g, [[0, 0], [2, 0], [4, 0]], ax)
    dots = np.asarray(ax.collections[0].get_offsets())
    assert dots[0].tolist() == [1, 0]
    assert dots[1:, 0].tolist() == [3, 3] and dots[1, 1] == -dots[2, 1] != 0


def test_two_directions_of_an_edge_are_apart(ax):
    g = from_edges([(0, 1), (0, 1), (1, 2)], 3).two_way()
    draw_line_graph(g, [[0, 0], [2, 0], [4, 0]], ax)
    x, y = np.asarray(ax.collections[0].get_offsets()).T
    assert x.tolist() == [1, 1, 3] * 2
    against, along = y[:3], y[3:]
    assert np.allclose(against, -along) and (along != 0).all()
    assert len(set(zip(x, y))) == 6


def test_positions_in_any_form(ax):
    g = ZOO["join"]()
    pos = np.arange(8.0).reshape(4, 2)
    for given in (pos, torch.from_numpy(pos), pos.tolist(), dict(enumerate(pos))):
        ax.clear()
        draw_dag(g, given, ax, labels={2: "x"})
        assert np.allclose(ax.collections[0].get_offsets(), pos)
        assert [(t.get_text(), t.xy) for t in ax.texts] == [("x", pytest.approx([4, 5]))]
    with pytest.raises(ValueError, match=r"pos of shape \[4, 2\].*got \[3, 2\]"):
        draw_dag(g, pos[:3], ax)
    with pytest.raises(ValueError, match="got none for node 3"):
        draw_line_graph(g, dict(enumerate(pos[:3])), ax)
    assert np.array_equal(layout(g), layout(g)) and layout(g).shape == (4, 2)


def test_another_pruned_graph(ax):
    g = ZOO["diamond"]()
    draw_line_graph(g, ax=ax, pruned=g)
    assert all(a.get_linestyle() in ("-", "solid") for a in arrows(ax))


def test_current_axes_are_the_default(ax):
    assert draw_dag(ZOO["path"]()) is ax


def test_without_matplotlib(monkeypatch):
    for module in ("matplotlib", "matplotlib.patches", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"plstm-graph\[experiments\]"):
        viz.draw_dag(ZOO["path"]())
    with pytest.raises(ImportError, match=r"plstm-graph\[experiments\]"):
        viz.draw_line_graph(ZOO["path"]())


def test_overview_figure(tmp_path, monkeypatch):
    """The README's figure: seven-level caffeine, no text on another, small enough to commit."""
    for module in ("matplotlib", "rdkit", "ogb"):
        pytest.importorskip(module)
    from matplotlib import pyplot
    from matplotlib.text import Text

    from experiments import figure

    drawn = figure.overview()
    drawn.canvas.draw()
    assert [ax.get_title()[:2] for ax in drawn.axes] == ["A ", "1.", "2.", "3."]
    boxes = []
    for ax in drawn.axes:
        legend = ax.get_legend()
        texts = [*ax.texts, ax.title, *(legend.get_texts() if legend else ())]
        # Of an annotation with an arrow only the text counts, not what it points at.
        boxes += [(t.get_text(), Text.get_window_extent(t)) for t in texts]
    for i, (text, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1, text
        for other, other_box in boxes[:i]:
            assert not box.overlaps(other_box), (text, other)
    pyplot.close(drawn)

    out = tmp_path / "new" / "overview.png"
    monkeypatch.setattr("sys.argv", ["figure", "--out", str(out)])
    figure.main()
    assert 10_000 < out.stat().st_size < 300_000
