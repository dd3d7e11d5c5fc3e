"""Names of functions: trees node by node, no trace of the name, vocabularies, split by project."""

import re
import sysconfig
from pathlib import Path

import pytest
import torch

from datasets import InputError, code_names, code_projects, code_vocabulary
from datasets.code_trees import MASK, functions, is_special, subtokens, tree
from datasets.code_vocabulary import LENGTH, NONE, OWN, SPECIAL, UNKNOWN, Vocabulary

LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def trees(source):
    return [tree(function) for function in functions(source)]


def words(found):
    """All words of the attributes of a tree."""
    return {word for text in found.attributes if text for word in re.findall(r"\w+", text)}


def test_nodes_one_by_one():
    (found,) = trees("def add(a, *rest, b=1):\n    return a.x + f(*rest, key=b)\n")
    assert found.name == "add"
    rows = list(zip(found.types, found.attributes, found.depths, found.parents))
    assert rows == [
        ("FunctionDef", MASK, 0, -1),
        ("arguments", None, 1, 0),
        ("arg", "a", 2, 1),
        ("arg", "rest", 2, 1),
        ("arg", "b", 2, 1),
        ("Constant", "1", 2, 1),
        ("Return", None, 1, 0),
        ("BinOp", None, 2, 6),
        ("Attribute", "x", 3, 7),
        ("Name", "a", 4, 8),
        ("Add", None, 3, 7),
        ("Call", None, 3, 7),
        ("Name", "f", 4, 11),
        ("Starred", None, 4, 11),
        ("Name", "rest", 5, 13),
        ("keyword", "key", 4, 11),
        ("Name", "b", 5, 15),
    ]


def test_constants_and_other_fields():
    body = "    import a.b as c\n    return None, True, 'None', 2.5, b'y', g(**x)\n"
    source = f"async def f(x):\n{body}"
    (found,) = trees(source)
    assert found.types[0] == "AsyncFunctionDef"
    pairs = list(zip(found.types, found.attributes))
    assert ("alias", "a.b") in pairs and "c" not in words(found)
    constants = [text for kind, text in pairs if kind == "Constant"]
    assert constants == ["None", "True", "None", "2.5", "b'y'"]
    assert ("keyword", None) in pairs  # that of **x
    assert not {"Load", "Store", "Del"} & set(found.types)


SETTER = '''
@size.setter
def size(self, value):
    """Set size; size() is (the) size. Not size_of."""
    def size(n):
        return size(n - 1)
    self._size = obj.size(value, size=size, other="a.size", data=b"size")
    resize(MASK, f"size={value}", lambda size: size)
    import size, os.size
'''


def test_the_name_is_masked_everywhere():
    found, inner = trees(SETTER)
    for each in (found, inner):
        assert each.name == "size" and each.attributes[0] == MASK
        assert "size" not in words(each)
    decorator = found.types.index("Attribute", len(found.types) - 3)
    assert found.attributes[decorator : decorator + 2] == ["setter", MASK]
    # Other words that contain it are not the name.
    assert {"_size", "resize", "size_of"} <= words(found)
    assert f"Set {MASK}; {MASK}() is (the) {MASK}. Not size_of." in found.attributes
    assert f"a.{MASK}" in found.attributes and f"os.{MASK}" in found.attributes
    assert f"b'{MASK}'" in found.attributes and f"{MASK}=" in found.attributes


@pytest.mark.parametrize("name", ["functools.py", "json/decoder.py", "enum.py", "typing.py"])
def test_no_function_of_the_library_names_itself(name):
    found = trees((LIBRARY / name).read_bytes())
    assert len(found) > 5
    for each in found:
        assert each.name not in words(each)
        assert each.attributes[0] == MASK
        # Preorder: parents come before their children, one level above them.
        for number in range(1, len(each.types)):
            parent = each.parents[number]
            assert 0 <= parent < number and each.depths[number] == each.depths[parent] + 1


def test_nested_functions_and_methods_in_the_order_of_the_text():
    source = "class A:\n  def a(self):\n    def b(): pass\n  async def c(self): pass\ndef d(): 0"
    assert [function.name for function in functions(source)] == ["a", "b", "c", "d"]


def test_too_large_a_tree_is_none():
    (function,) = functions("def f(a): return a")
    assert len(tree(function).types) == 5
    assert tree(function, 5) == tree(function) and tree(function, 4) is None


@pytest.mark.parametrize(
    "name, expected",
    [
        ("_getHTTPResponse2", ["get", "http", "response", "2"]),
        ("assertIsInstance", ["assert", "is", "instance"]),
        ("x2y_DO", ["x", "2", "y", "do"]),
        ("__private", ["private"]),
        ("éTat", ["é", "tat"]),
        ("_", []),
    ],
)
def test_subtokens(name, expected):
    assert subtokens(name) == expected


def test_special_names():
    assert is_special("__init__") and not any(map(is_special, ("__x", "_x_", "__", "____")))


BODY = "    if a.start:\n        return [a, b.end]\n"


def write(folder, **files):
    paths = []
    for name, source in files.items():
        paths.append(folder / f"{name}.py")
        paths[-1].write_text(source)
    return paths


def test_what_is_left_out(tmp_path, monkeypatch):
    long = "def long(a):\n" + "    a.b(1, 2, 3)\n" * 60
    first = write(
        tmp_path,
        a=f"def one(a, b):\n{BODY}def __len__(a, b):\n{BODY}def _(a, b):\n{BODY}def stub(): pass\n",
        b="this is no Python",
        c=f"def one(a, b):\n{BODY}{long}def two(a, b):\n{BODY}",
    )
    second = write(tmp_path, d=f"def three(a, b):\n{BODY}def two(a, b):\n{BODY}")
    found = code_names.read({"q": second, "p": first, "empty": []})
    names = {project: sorted(t.name for t in trees) for project, trees in found.items()}
    assert names == {"p": ["one", "two"], "q": ["three"]}  # p comes first: its two is kept
    monkeypatch.setattr(code_names, "PER_PROJECT", 1)
    assert [len(trees) for trees in code_names.read({"p": first, "q": second}).values()] == [1, 1]


def test_vocabulary_encodes_and_decodes():
    vocabulary = Vocabulary(["Add"], [*SPECIAL, "x"], [*SPECIAL], ["get", "set"])
    assert (vocabulary.unknown, vocabulary.end) == (2, 3)
    rows = [["get"], ["set", "fog", "get"], ["set"] * 7, []]
    encoded = torch.cat([vocabulary.encode(row) for row in rows])
    assert encoded.tolist() == [[0, 3, 3, 3, 3], [1, 2, 0, 3, 3], [1] * 5, [3] * 5]
    assert vocabulary.decode(encoded) == [["get"], ["set", "__UNK__", "get"], ["set"] * 5, []]
    assert vocabulary.decode(torch.tensor([[0, 3, 1, 1, 1]])) == [["get"]]


def test_vocabulary_is_the_most_frequent(monkeypatch):
    monkeypatch.setattr(code_vocabulary, "TOKENS", 2)
    monkeypatch.setattr(code_vocabulary, "ATTRIBUTES", 1)
    monkeypatch.setattr(code_vocabulary, "WORDS", 2)
    found = code_vocabulary.make_vocabulary(trees("def b_a(x): x.y\ndef c_a(x): x\ndef b_d(z): z"))
    assert found.tokens == ["a", "b"]  # both twice, in alphabetical order
    assert found.attributes == [*SPECIAL, "x"]
    assert found.words == [*SPECIAL, "x", "z"]
    assert found.types == sorted(set(found.types)) and "FunctionDef" in found.types


MODULES = ("textwrap", "hashlib", "csv", "queue", "bisect", "shlex", "calendar")


@pytest.fixture
def small(monkeypatch):
    """A set of a few modules of the library."""
    projects = {f"std.{name}": [LIBRARY / f"{name}.py"] for name in MODULES}
    monkeypatch.setattr(code_names, "project_files", lambda: projects)
    monkeypatch.setattr(code_names, "versions", lambda: {"python": "3"})


def test_set_is_the_same_each_time_and_split_by_project(small, tmp_path, monkeypatch):
    data = code_names.load(tmp_path)
    fresh = code_names.load(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(code_names, "project_files", None)  # the file is enough
        again = code_names.load(tmp_path)
    assert data.versions == {"python": "3"} and set(data.parts) == {"train", "valid", "test"}
    projects = [name for names in data.projects.values() for name in names]
    assert sorted(projects) == sorted(f"std.{name}" for name in MODULES)
    for other in (fresh, again):
        assert other.vocabulary == data.vocabulary and other.projects == data.projects
        for part, graphs in data.parts.items():
            for graph, same in zip(graphs, other.parts[part], strict=True):
                assert torch.equal(graph.x, same.x) and graph.words == same.words
                assert torch.equal(graph.edge_index, same.edge_index)
                assert torch.equal(graph.y, same.y)
    expected = code_names.read({"std.textwrap": [LIBRARY / "textwrap.py"]})["std.textwrap"]
    assert data.projects["valid"] == ["std.hashlib", "std.textwrap"]
    found = data.parts["valid"][-len(expected) :]
    v = data.vocabulary
    for graph, each in zip(found, expected, strict=True):
        assert graph.words == subtokens(each.name)
        assert v.encode(graph.words).tolist() == graph.y.tolist() and graph.y.shape == (1, LENGTH)
        assert graph.x[:, 2].tolist() == each.depths
        assert graph.edge_index.tolist() == [each.parents[1:], list(range(1, graph.num_nodes))]
        for kind, name in zip(graph.x[:, 0].tolist(), each.types):
            assert name == v.types[kind] if kind < len(v.types) else name not in v.types
        for number, text in zip(graph.x[:, 1].tolist(), each.attributes):
            if number > OWN:
                assert v.attributes[number] == text
            else:
                assert number == {None: NONE, MASK: OWN}.get(text, UNKNOWN)
        assert graph.x[0, 1] == OWN and graph.x.shape == (len(each.types), 7)
        for row, text in zip(graph.x[:, 3:].tolist(), each.attributes):
            read = [] if text in (None, MASK) else subtokens(text)[:4]
            assert row[len(read) :] == [NONE] * (4 - len(read))
            for number, word in zip(row, read):
                assert v.words[number] == word if number != UNKNOWN else word not in v.words


def test_limit_is_spread_over_the_part(small, tmp_path):
    whole, few = code_names.load(tmp_path), code_names.load(tmp_path, limit=5)
    assert [len(graphs) for graphs in few.parts.values()] == [5, 5, 5]
    train = whole.parts["train"]
    for i, graph in enumerate(few.parts["train"]):
        assert torch.equal(graph.x, train[i * len(train) // 5].x)


def test_projects_of_the_interpreter():
    projects = code_projects.project_files({"networkx": "networkx"})
    parts = [code_names.part_of(name) for name in projects]
    counts = {part: parts.count(part) for part in ("train", "valid", "test")}
    assert counts["train"] > 0.7 * len(parts) and min(counts.values()) > 5
    assert {"std.json", "std.ast", "std.asyncio", "networkx"} <= set(projects)
    files = [path for paths in projects.values() for path in paths]
    assert len(set(files)) == len(files)
    assert not any({"test", "tests"} & set(path.parts[-3:-1]) for path in files)
    listed = [name for names in code_names.PACKAGES_OF.values() for name in names]
    assert set(listed) < set(code_projects.PACKAGES) and len(set(listed)) == len(listed)


def test_next_tokens_follow_the_attributes():
    x = torch.tensor([[0, 2, 0], [1, 0, 1], [2, 5, 2], [2, 1, 2], [3, 0, 1]])
    assert code_names.next_tokens(x).tolist() == [[0, 2], [2, 3]]
    assert code_names.next_tokens(x[1:2]).shape == (2, 0)


def test_errors(tmp_path, small, monkeypatch):
    with pytest.raises(InputError, match=r"expected limit as 1 or more functions .*, got 0"):
        code_names.load(tmp_path, limit=0)
    with pytest.raises(InputError, match=r"expected the package no-such-thing, .* install"):
        code_projects.versions({"no_such_thing": "no-such-thing"})
    with pytest.raises(InputError, match="expected no_such_thing as an installed package"):
        code_projects.project_files({"no_such_thing": "no-such-thing"})
    only = {"std.bisect": [LIBRARY / "bisect.py"]}
    monkeypatch.setattr(code_names, "project_files", lambda: only)
    with pytest.raises(InputError, match="expected projects in every part, got none in valid, te"):
        code_names.load(tmp_path)
