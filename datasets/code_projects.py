"""Python files of the running interpreter, by project; nothing is imported or downloaded.

A project is a module or package at the top of the standard library, or one of :data:`PACKAGES`.
Tests are left out: files ``test_*.py`` and the folders of :data:`SKIPPED`.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from datasets.base import InputError

#: Installed packages that are projects, each with the distribution that it comes with.
PACKAGES = {
    "PIL": "pillow",
    "jsonargparse": "jsonargparse",
    "lightning": "lightning",
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "numpy": "numpy",
    "ogb": "ogb",
    "pandas": "pandas",
    "rdkit": "rdkit",
    "rich": "rich",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "torch": "torch",
    "torch_geometric": "torch_geometric",
    "torchmetrics": "torchmetrics",
}
#: Folders that are no part of a project: tests, and copies of other projects.
SKIPPED = {"test", "tests", "testing", "idle_test", "_vendor", "_bundled", "site-packages"}


def versions(packages: dict[str, str] | None = None) -> dict[str, str]:
    """The version of Python and of each package.

    Args:
        packages: names of modules and of their distributions. Default: PACKAGES.

    Raises:
        InputError: if one of them is not installed.
    """
    packages = PACKAGES if packages is None else packages
    found = {"python": platform.python_version()}
    for name, distribution in sorted(packages.items()):
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            raise InputError(
                f"expected the package {distribution}, whose functions are in the set, got none "
                f"of that name; install plstm-graph[experiments]"
            ) from None
    return found


def project_files(packages: dict[str, str] | None = None) -> dict[str, list[Path]]:
    """Project -> its files, both sorted; those of the standard library are named ``std.NAME``."""
    library = Path(sysconfig.get_paths()["stdlib"])
    projects: dict[str, list[Path]] = {}
    for path in python_files(library):
        name = path.relative_to(library).parts[0].removesuffix(".py")
        projects.setdefault(f"std.{name}", []).append(path)
    for name in sorted(PACKAGES if packages is None else packages):
        spec = find_spec(name)
        places = spec and spec.submodule_search_locations
        if not places:
            raise InputError(
                f"expected {name} as an installed package, got none; install "
                f"plstm-graph[experiments]"
            )
        projects[name] = [path for place in places for path in python_files(Path(place))]
    return projects


def python_files(folder: Path) -> list[Path]:
    """The files below a folder without tests, sorted by their names relative to it."""
    found = []
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).parts
        skipped = any(part in SKIPPED or part.startswith("config-") for part in parts[:-1])
        if not skipped and not parts[-1].startswith("test_"):
            found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def digest(text: str) -> int:
    """A number of 64 bits that depends on the text alone, unlike ``hash``."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big")
