"""The README's code runs, and its lines are the ones that the checks run."""

import re
import shutil
from pathlib import Path

import pytest

from tests.shared import DATA, needs_shared

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block marked {name!r}"
    return found[1]


@needs_shared
def test_example_trains(tmp_path, monkeypatch):
    shutil.copytree(DATA / "tu" / "MUTAG", tmp_path / "data" / "MUTAG")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(block("example"), namespace)
    assert namespace["loss"].isfinite()
    assert all(p.grad is not None for p in namespace["model"].parameters())


@pytest.mark.parametrize("name", ["main job", "tests"])
def test_install_lines_are_one_line_each(name):
    line = block(name).strip()
    assert "\n" not in line
    assert "-c constraints.txt" in line


def test_example_is_short():
    code = [line for line in block("example").splitlines() if line.strip()]
    assert len(code) <= 25


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert links or page.name in ("orientation.md", "tried.md")
    for link in links:
        assert (page.parent / link).exists(), link


def test_readme_stays_short():
    """Results have pages of their own."""
    assert len(README.splitlines()) <= 230 and "<!-- table" not in README
