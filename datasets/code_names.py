"""Names of Python functions, predicted from their syntax trees: an offline twin of ogbg-code2.

The functions are those of the running interpreter's standard library and of packages that this
project depends on (:mod:`datasets.code_projects`), so their number depends on the versions
installed, which are recorded. As in `ogbg-code2 <https://arxiv.org/abs/2005.00687>`_ the target is
the sequence of the first 5 sub-tokens of the name, the score is the F1 of sets of sub-tokens, and
the split is by project: no project has functions in two parts. Beside the whole attribute, of
which a third is unknown in a new project, a node has its words, split as names are.

Left out are functions of less than 5 or more than 300 nodes, names of two underscores on both
sides, names without letters or digits, and functions that have the name and tree of an earlier one
(copied code). Of a project with more than 600 functions 600 are taken, from files in the order of a
digest.

The set is kept in ``code_names`` under the data root: seconds to read, half a minute to make.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from datasets.base import SPLITS, InputError, data_root
from datasets.code_projects import digest, project_files, versions
from datasets.code_trees import Tree, functions, is_special, subtokens, tree
from datasets.code_vocabulary import (
    NONE,
    UNKNOWN,
    WORDS_READ,
    Vocabulary,
    attribute_words,
    make_vocabulary,
)

#: Nodes of a function.
LEAST, MOST = 5, 300
#: Functions of one project.
PER_PROJECT = 600
#: Packages that are not for training. Of the standard library every tenth module is for validation
#: and every tenth for the test, see :func:`part_of`.
PACKAGES_OF = {"valid": ("PIL", "scipy"), "test": ("numpy", "tensorboard")}
#: Changes when what is read from the same files changes.
VERSION = 2


@dataclass
class CodeNames:
    """The set. Graphs have

    * ``x`` [N, 7]: type, attribute and depth of each node, and the first 4 words of the attribute,
      int64; nodes are in preorder,
    * ``edge_index`` [2, N - 1], from parent to child, in the order of the children,
    * ``y`` [1, 5]: the sub-tokens,
    * ``words``: all sub-tokens of the name, as text.

    Args:
        parts: graphs of "train", "valid" and "test".
        projects: names of the projects of each part.
        vocabulary: of the numbers.
        versions: of Python and the packages.
    """

    parts: dict[str, list[Data]]
    projects: dict[str, list[str]]
    vocabulary: Vocabulary
    versions: dict[str, str]


def load(root: str | Path | None = None, limit: int | None = None) -> CodeNames:
    """Read the set, or make and keep it where there is none for the versions installed.

    Args:
        root: data root.
        limit: use only so many functions of each part, taken evenly over its projects.

    Raises:
        InputError: if a package is missing or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"expected limit as 1 or more functions of each part, got {limit}")
    installed = versions()
    key = f"{digest(json.dumps(installed)):016x}"
    path = data_root(root) / "code_names" / f"v{VERSION}-{key}.pt"
    if path.is_file():
        stored = torch.load(path, weights_only=True)
    else:
        stored = {**pack(read(project_files())), "versions": installed}
        path.parent.mkdir(parents=True, exist_ok=True)
        partly = path.with_suffix(f".{os.getpid()}.partial")
        torch.save(stored, partly)
        partly.replace(path)
    vocabulary = Vocabulary(**stored["vocabulary"])
    parts = {part: _unpack(stored["parts"][part], vocabulary, limit) for part in SPLITS}
    return CodeNames(parts, stored["projects"], vocabulary, stored["versions"])


def part_of(project: str) -> str:
    """The part of a project, from its name alone: packages by a list, modules by a digest."""
    for part, packages in PACKAGES_OF.items():
        if project in packages:
            return part
    if not project.startswith("std."):
        return "train"
    return {0: "valid", 1: "test"}.get(digest(f"code_names {project}") % 10, "train")


def read(projects: dict[str, list[Path]]) -> dict[str, list[Tree]]:
    """The functions of each project, see the module; projects and files in a fixed order.

    Files that are not Python of this version are left out.
    """
    seen: set[int] = set()
    found = {}
    for project, paths in sorted(projects.items()):
        trees: list[Tree] = []
        for number in sorted(range(len(paths)), key=lambda i: digest(f"{project} {i}")):
            if len(trees) >= PER_PROJECT:
                break
            try:
                sources = list(functions(paths[number].read_bytes()))
            except (SyntaxError, ValueError):
                continue
            for candidate in filter(None, map(_tree, sources)):
                mark = digest(repr(candidate))
                if mark not in seen:
                    seen.add(mark)
                    trees.append(candidate)
        if trees:
            found[project] = trees[:PER_PROJECT]
    return found


def _tree(function) -> Tree | None:
    """The tree of a function that belongs to the set."""
    if is_special(function.name) or not subtokens(function.name):
        return None
    found = tree(function, MOST)
    return found if found is not None and len(found.types) >= LEAST else None


def pack(projects: dict[str, list[Tree]]) -> dict:
    """What is kept of the functions of each project: a file of few large tensors is fast to read.

    Raises:
        InputError: if a part has no functions.
    """
    names = {part: [p for p in projects if part_of(p) == part] for part in SPLITS}
    if missing := [part for part in SPLITS if not names[part]]:
        raise InputError(
            f"expected projects in every part, got none in {', '.join(missing)} "
            f"({len(projects)} in all); use more projects"
        )
    parts = {part: [tree for p in names[part] for tree in projects[p]] for part in SPLITS}
    vocabulary = make_vocabulary(parts["train"])
    type_number = {name: i for i, name in enumerate(vocabulary.types)}
    attribute_number = {text: i for i, text in enumerate(vocabulary.attributes)}
    attribute_number[None] = NONE
    word_number = {word: i for i, word in enumerate(vocabulary.words)}
    packed = {}
    for part, trees in parts.items():
        types = [type_number.get(name, len(type_number)) for t in trees for name in t.types]
        texts = [attribute_number.get(text, UNKNOWN) for t in trees for text in t.attributes]
        words = [
            [word_number.get(word, UNKNOWN) for word in attribute_words(text)]
            for t in trees
            for text in t.attributes
        ]
        words = [row + [NONE] * (WORDS_READ - len(row)) for row in words]
        packed[part] = {
            "types": torch.tensor(types, dtype=torch.uint8),
            "attributes": torch.tensor(texts, dtype=torch.int32),
            "words": torch.tensor(words, dtype=torch.int16),
            "depths": torch.tensor([d for t in trees for d in t.depths], dtype=torch.int16),
            "parents": torch.tensor([p for t in trees for p in t.parents], dtype=torch.int16),
            "sizes": [len(t.types) for t in trees],
            "names": [t.name for t in trees],
        }
    return {"parts": packed, "projects": names, "vocabulary": asdict(vocabulary)}


def _unpack(packed: dict, vocabulary: Vocabulary, limit: int | None) -> list[Data]:
    """The graphs of a part, or ``limit`` of them."""
    sizes, names = packed["sizes"], packed["names"]
    columns = [packed[key].long().split(sizes) for key in ("types", "attributes", "depths")]
    text = packed["words"].long().split(sizes)
    parents = packed["parents"].long().split(sizes)
    count = len(sizes) if limit is None else min(limit, len(sizes))
    graphs = []
    for i in (torch.arange(count) * len(sizes) // count).tolist():
        words = subtokens(names[i])
        graphs.append(
            Data(
                x=torch.cat([torch.stack([column[i] for column in columns], 1), text[i]], 1),
                edge_index=torch.stack([parents[i][1:], torch.arange(1, sizes[i])]),
                y=vocabulary.encode(words),
                words=words,
            )
        )
    return graphs


def next_tokens(x: Tensor) -> Tensor:
    """[2, M]: edges from each node with an attribute to the next one in preorder.

    Args:
        x: [N, 7] nodes of one function, see :class:`CodeNames`.
    """
    tokens = x[:, 1].ne(NONE).nonzero().view(-1)
    return torch.stack([tokens[:-1], tokens[1:]])
