"""Syntax trees of Python functions, with the name of the function masked.

The nodes of a function are those of its tree of :mod:`ast`, in preorder: the definition itself is
node 0, a child comes after its parent and after the whole subtrees of its earlier siblings.
``Load``, ``Store`` and ``Del`` are left out. A node has a type (the name of its class), its depth,
its parent, and an attribute: the first of ``name``, ``arg``, the value of a constant, ``id`` and
``attr`` that it has. Strings are taken as they are, other constants by their ``repr``.

The own name is replaced by ``MASK`` wherever it stands as a whole word: as the name of the
definition, in recursive calls, as a part of ``@name.setter``, in strings and in docstrings. An
identifier that only contains it (``_size`` in a property ``size``) is another word and stays, as in
ogbg-code2. Other fields of a node, such as the new name in ``import a as b``, are not read at all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

#: Stands for the own name of a function.
MASK = "_mask_"
#: Fields that may give the attribute of a node, in this order; the value is that of a constant.
FIELDS = ("name", "arg", "value", "id", "attr")
#: Runs of letters or of digits, and the places within a run of letters where a word begins.
WORDS = re.compile(r"[^\W\d_]+|\d+")
CAMEL = re.compile(r"(?<=[^\W\d_])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])")


class Tree(NamedTuple):
    """The tree of one function; all lists have one entry for each node, in preorder.

    Args:
        name: of the function.
        types: names of classes of :mod:`ast`.
        attributes: texts, None where a node has none.
        depths: 0 for the definition.
        parents: numbers of nodes, -1 for the definition.
    """

    name: str
    types: list[str]
    attributes: list[str | None]
    depths: list[int]
    parents: list[int]


def functions(source: str | bytes) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a source, nested ones too, in the order of the text.

    Raises:
        SyntaxError, ValueError: if the source is not one of the running Python.
    """
    stack: list[ast.AST] = [ast.parse(source)]
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        stack.extend(reversed(list(ast.iter_child_nodes(node))))


def attribute(node: ast.AST) -> str | None:
    """The text of a node before the own name is masked, see the module."""
    for field in FIELDS:
        if field == "value":
            if isinstance(node, ast.Constant):
                return node.value if isinstance(node.value, str) else repr(node.value)
        elif (value := getattr(node, field, None)) is not None and isinstance(value, str):
            return value
    return None


def tree(function: ast.FunctionDef | ast.AsyncFunctionDef, most: int | None = None) -> Tree | None:
    """The masked tree of a function; None if it has more than ``most`` nodes."""
    own = re.compile(rf"(?<!\w){re.escape(function.name)}(?!\w)")
    found = Tree(function.name, [], [], [], [])
    stack: list[tuple[ast.AST, int, int]] = [(function, -1, 0)]
    while stack:
        if most is not None and len(found.types) == most:
            return None
        node, parent, depth = stack.pop()
        text = attribute(node)
        number = len(found.types)
        found.types.append(type(node).__name__)
        found.attributes.append(None if text is None else own.sub(MASK, text))
        found.depths.append(depth)
        found.parents.append(parent)
        children = [c for c in ast.iter_child_nodes(node) if not isinstance(c, ast.expr_context)]
        stack.extend((child, number, depth + 1) for child in reversed(children))
    return found


def subtokens(name: str) -> list[str]:
    """The words of an identifier, split at underscores, digits and camel case, in lower case.

    ``_getHTTPResponse2`` has the words get, http, response, 2; ``_`` has none.
    """
    return [part.lower() for word in WORDS.findall(name) for part in CAMEL.split(word)]


def is_special(name: str) -> bool:
    """Whether a name has two underscores on both sides, such as ``__init__``."""
    return len(name) > 4 and name.startswith("__") and name.endswith("__")
