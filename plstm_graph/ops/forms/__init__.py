"""The forms, by their public names."""

from plstm_graph.ops.forms.base import Form, Problem
from plstm_graph.ops.forms.chunkwise import Chunkwise
from plstm_graph.ops.forms.dense import Dense
from plstm_graph.ops.forms.levelwise import Levelwise
from plstm_graph.ops.forms.naive import Naive
from plstm_graph.ops.forms.walk import Walk

FORMS: dict[str, Form] = {}


def register(form: Form) -> None:
    """Make a form known to ``plstm`` under its name."""
    FORMS[form.name] = form


for _form in (Naive(), Levelwise(), Walk(), Dense(), Chunkwise()):
    register(_form)

__all__ = ["FORMS", "Form", "Problem", "register"]
