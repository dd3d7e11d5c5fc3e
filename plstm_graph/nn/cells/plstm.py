r"""The cell of the pLSTM: the parts of its gates, which :mod:`plstm_graph.nn.gates` describes.

Its Mark reads the states of the edges that end at a node before the node's own update; all other
cells read after it.
"""

from functools import partial

import torch

from plstm_graph.nn.projection import Part, spread

#: Modes, the default first.
MODES = ("P", "D")

#: Smallest and largest bias of the Transition over the heads, for ``init="open"``; that of the
#: second factor, where it has two.
OPEN_BIAS, FACTOR_BIAS = (0.5, 3.0), 1.5
#: Biases of ``init="grid"``: an almost lossless memory that is written and read little.
GRID_BIAS = {"source": -4.0, "mark": -4.0, "direct": -6.0, "transition": 5.0}


def plstm_parts(
    channels: int, heads: int, transition_node: str, init: str
) -> tuple[list[list[Part]], list[Part]]:
    """The parts of the pLSTM's gates (:mod:`plstm_graph.nn.gates`).

    Args:
        channels: width of query, key and value, all heads.
        heads: H.
        transition_node: one of ``TRANSITION_NODES``, or ``"factored"``: the Transition is a product
            of two gates, the first of which ends at the junction.
        init: ``"open"``, ``"graph"`` or ``"grid"``, see :class:`plstm_graph.nn.PLSTMConv`.

    Returns:
        Of nodes, in runs that are used together: query, key, value, Direct; what edges read at
        their source (Source, Transition), and at their target (Mark). Of edges: Source, Mark, and
        the Transition of an edge as e_in and as e_out.
    """
    factored = transition_node == "factored"
    ends = 3 if transition_node == "all" else 1
    fans = {"direct": (1, 0), "source": (1, 1), "mark": (1, 1)}

    def gate(name: str) -> Part:
        weight = bias = None
        if init == "grid":
            weight = torch.nn.init.zeros_
            bias = partial(torch.nn.init.constant_, val=GRID_BIAS.get(name, 0.0))
        elif init == "open" and factored and name == "transition":
            bias = partial(torch.nn.init.constant_, val=FACTOR_BIAS)
        elif init == "open" and name == ("transition_end" if factored else "transition"):
            bias = partial(spread, low=OPEN_BIAS[0], high=OPEN_BIAS[1])
        elif init == "open" and name.startswith("transition"):  # the same logit's, with "all"
            bias = torch.nn.init.zeros_
        return Part(name, heads, fans.get(name, (ends, 2)), weight, bias)

    # Two runs of columns are gathered by edges. The junction is the source of e_out, the start the
    # source of e_in.
    at_source, at_target = ["source", "transition"], ["mark"]
    if transition_node == "all":
        at_source.insert(1, "transition_start")
    if transition_node in ("all", "factored"):
        at_target.append("transition_end")
    node = [[Part(name, channels)] for name in ("query", "key", "value")]
    node += [[gate(name) for name in run] for run in (["direct"], at_source, at_target)]
    return node, [gate(name) for name in ("source", "mark", "transition_in", "transition_out")]
