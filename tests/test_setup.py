"""The build of the kernels, with a compiler that writes down what it is asked for."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from plstm_graph.ops import native

ROOT = Path(__file__).parents[1]
NATIVE = Path("plstm_graph/ops/native")
X86 = sysconfig.get_platform().endswith(("x86_64", "amd64"))
LEVELS = ["baseline", "avx2", "avx512"] if X86 else ["baseline"]
COMPILER = """#!/bin/sh
case "$*" in *$FAIL*) echo "no room left" >&2; exit 1;; esac
echo "$*" >> calls
while [ $# -gt 1 ]; do
    if [ "$1" = -o ]; then echo library > "$2"; fi
    shift
done
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the compiler is a shell script")


@pytest.fixture
def project(tmp_path):
    """A copy of what the build reads, and functions that build and list the compiler's calls."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / NATIVE).mkdir(parents=True)
    for path in [*(ROOT / NATIVE).glob("*.c"), ROOT / NATIVE / "__init__.py"]:
        shutil.copy(path, tmp_path / NATIVE)
    compiler = tmp_path / "cc"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)

    def build(*arguments: str, fail: str = "nothing") -> str:
        environment = {"CC": str(compiler), "LDSHARED": f"{compiler} -shared", "FAIL": fail}
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "setup.py", *arguments],
            env=os.environ | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def compiled() -> list[str]:
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.write_text("")
        return [line for line in lines if " -c " in line]

    return SimpleNamespace(
        folder=tmp_path, native=tmp_path / NATIVE, build=build, compiled=compiled
    )


def _libraries(folder: Path) -> dict[str, str]:
    return json.loads((folder / "libraries.json").read_text())["libraries"]


def test_levels_and_their_list(project):
    assert set(LEVELS) <= set(native.LEVELS)
    assert "NOT built" not in project.build("build_ext", "--inplace")
    calls = project.compiled()
    assert len(calls) == len(LEVELS)
    flags = "-O3 -fopenmp-simd -fno-math-errno"
    assert all(flags in call and f"{NATIVE}/kernels.c" in call for call in calls)
    # They are compiled at once, in any order, so each has an object file of its own.
    levels = {("-mavx2" in call, "-mavx512f" in call) for call in calls}
    assert levels == set([(False, False), (True, False), (False, True)][: len(LEVELS)])
    assert len({call.split(" -o ")[1].split()[0] for call in calls}) == len(LEVELS)
    assert {path.name for path in project.native.glob("*.so")} == {
        f"kernels.{level}.so" for level in LEVELS
    }
    manifest = json.loads((project.native / "libraries.json").read_text())
    assert list(manifest["libraries"]) == LEVELS
    assert set(manifest["sources"]) == {path.name for path in (ROOT / NATIVE).glob("*.c")}
    assert {"walk_forward", "walk_backward", "gating_forward", "scan"} <= set(manifest["kernels"])


def _change(path: Path, seconds: float = 60) -> None:
    """Makes a file newer than everything, or older if ``seconds`` are negative."""
    path.touch()
    os.utime(path, (time.time() + seconds,) * 2)


def test_is_rebuilt_when_a_source_changes(project):
    project.build("build_ext", "--inplace")
    assert len(project.compiled()) == len(LEVELS)
    for name in ("scan.c", "another.c"):  # a new source as well
        project.build("build_ext", "--inplace")
        assert not project.compiled()
        _change(project.native / name)
        project.build("build_ext", "--inplace")
        assert len(project.compiled()) == len(LEVELS)
        _change(project.native / name, -60)
    assert "another.c" in json.loads((project.native / "libraries.json").read_text())["sources"]


@pytest.mark.parametrize("again", [False, True])
def test_compile_fails(project, again):
    """The build says so and goes on; libraries of an earlier build are not listed."""
    if again:
        project.build("build_ext", "--inplace")
        _change(project.native / "scan.c")
    output = project.build("build_ext", "--inplace", fail="kernels.c")
    assert "NOT built for: " + ", ".join(LEVELS) in output
    assert "works without them" in output and "reinstall" in output
    assert _libraries(project.native) == {}
    assert not list(project.folder.glob("build/**/*.so"))


@pytest.mark.skipif(not X86, reason="there is only one level")
def test_one_level_fails(project):
    output = project.build("build_ext", "--inplace", fail="avx512f")
    assert "NOT built for: avx512 " in output
    assert list(_libraries(project.native)) == ["baseline", "avx2"]


def test_wheel(project):
    project.build("bdist_wheel", "--dist-dir", "with")
    (wheel,) = (project.folder / "with").iterdir()
    tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{tag}.whl") or sys.platform == "darwin"
    shutil.unpack_archive(wheel, project.folder / "unpacked", "zip")
    folder = project.folder / "unpacked" / NATIVE
    assert {"libraries.json", "kernels.c", *(f"kernels.{level}.so" for level in LEVELS)} <= set(
        os.listdir(folder)
    )
    assert list(_libraries(folder)) == LEVELS
    assert not list(project.native.glob("*.so"))  # the source tree stays as it is

    _change(project.native / "scan.c")
    project.build("bdist_wheel", "--dist-dir", "without", fail="kernels.c")
    (wheel,) = (project.folder / "without").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    shutil.unpack_archive(wheel, project.folder / "pure", "zip")
    assert _libraries(project.folder / "pure" / NATIVE) == {}
    assert not list((project.folder / "pure").rglob("*.so"))


def test_source_distribution(project):
    project.build("build_ext", "--inplace")
    project.build("sdist", "--dist-dir", "source")
    (archive,) = (project.folder / "source").iterdir()
    with tarfile.open(archive) as tar:
        names = {Path(name).name for name in tar.getnames()}
    assert {"setup.py", *(path.name for path in project.native.glob("*.c"))} <= names
    assert not {name for name in names if name.endswith(".so") or name == "libraries.json"}
