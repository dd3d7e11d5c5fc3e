"""What the tests of the names of functions share: a set of a few modules, and the rows."""

import inspect
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from datasets import code_names
from experiments.code_names import runs
from experiments.code_names.models import CodeConfig
from plstm_graph import PLSTMConv

CONFIGS = sorted((Path(runs.__file__).parent / "configs").glob("*.yaml"))
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
MODULES = ("argparse", "bisect", "csv", "hashlib", "pprint", "queue", "shlex", "textwrap")


@contextmanager
def few_modules():
    """Within it :func:`datasets.code_names.load` makes a set of a few modules of the library."""
    projects = {f"std.{name}": [LIBRARY / f"{name}.py"] for name in MODULES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_names, "project_files", lambda: projects)
        patch.setattr(code_names, "versions", lambda: {"python": "3"})
        yield


def config_of(path):
    row = yaml.safe_load(path.read_text())
    assert row.pop("row") == path.stem
    return CodeConfig(row.pop("model"), 0, 4, **row)


def runnable(path):
    """Skips rows with a cell where the layer has none."""
    has_cell = "cell" in inspect.signature(PLSTMConv).parameters
    if "cell" in config_of(path).options and not has_cell:
        pytest.skip("PLSTMConv has no cells")


def f1(expected, predicted):
    both = len(set(expected) & set(predicted))
    if not both:
        return 0.0
    precision, recall = both / len(set(predicted)), both / len(set(expected))
    return 2 * precision * recall / (precision + recall)
