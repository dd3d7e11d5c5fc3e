"""The forms: one exact way each to compute the recurrence, by public name and backend."""

from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.forms.chunkwise import Chunkwise
from plstm_graph.ops.forms.dense import Dense
from plstm_graph.ops.forms.levelwise import Levelwise
from plstm_graph.ops.forms.naive import Naive
from plstm_graph.ops.forms.triton import TritonDense, TritonWalk
from plstm_graph.ops.forms.walk import Walk

#: By backend ("torch", which includes the compiled kernels, or "triton"), then by name.
FORMS: dict[str, dict[str, Form]] = {"torch": {}, "triton": {}}


def register(form: Form) -> None:
    """Make a form known to ``plstm`` under its name."""
    FORMS[form.backend][form.name] = form


for _form in (Naive(), Levelwise(), Walk(), Dense(), Chunkwise(), TritonWalk(), TritonDense()):
    register(_form)


def names() -> list[str]:
    """The public names."""
    return list(FORMS["torch"])


__all__ = ["FORMS", "Form", "Problem", "names", "register"]
