"""Kernels compile for every target, without spills, with the barriers they need."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from experiments.kernels import aot
from experiments.kernels.aot import races

ROOT = Path(__file__).parents[3]


def run_python(*arguments):
    """What Python prints where kernels are compiled and not interpreted."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    out = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


REPRESENTATIVES = """
from experiments.kernels import aot
kinds = {}
for spec in aot.shipped():
    kernel, options = spec.name.rstrip("]").split("[")
    kinds.setdefault((kernel, *(x for x in options.split(",") if x[0] in "JKG")), spec)
for i, (kind, spec) in enumerate(kinds.items()):
    row = aot.resources(spec, ("sm_90", "sm_80")[i % 2])
    print(*kind, row["registers"] > 0, aot.fault(row), sep="|")
"""


def test_each_kernel_compiles():
    """One configuration of each kind, without a stack, spills or missing barriers. All of them:
    ``python -m experiments.kernels.aot``."""
    lines = [line.split("|") for line in run_python("-c", REPRESENTATIVES).splitlines()]
    assert len(lines) == 9 + 2 + 2 * 4 + 1
    for *kind, compiled, fault in lines:
        assert (compiled, fault) == ("True", "None"), kind


def test_what_is_a_fault():
    row = {"stack": 0, "spills": 0, "races": [], "tg_split": False, "rereads": True}
    row |= {"threads": 64, "target": "sm_90"}
    assert aot.fault(row) is None
    for change in (
        {"stack": 8},
        {"spills": 4},
        {"races": ["ld.global"]},
        {"tg_split": True},
        {"target": "gfx942"},
    ):
        assert aot.fault(row | change), change


def test_what_did_not_change_is_not_compiled_again(tmp_path, monkeypatch):
    """The second run reads what the first one left; another source, or option, is another file."""
    monkeypatch.setenv("PLSTM_COMPILE_CACHE", str(tmp_path))
    code = """
import dataclasses
from experiments.kernels import aot
spec = aot.shipped(["scan"])[1]
first = aot.resources(spec, "sm_90")
aot.compile_spec = None
assert aot.resources(spec, "sm_90") == first
files = {aot._cache_file(s, t) for s, t in (
    (spec, "sm_90"), (spec, "sm_80"), (dataclasses.replace(spec, num_warps=8), "sm_90"))}
assert len(files) == 3
aot._own_source = lambda: "changed"
assert aot._cache_file(spec, "sm_90") not in files
"""
    run_python("-c", code)
    assert len(list(tmp_path.iterdir())) == 1


SOURCE = """
import re
from experiments.kernels import aot
spec = aot.shipped(["scan"])[0]
for target in ("sm_90", "gfx942"):
    asm = aot.compile_spec(spec, target).asm
    bare = re.sub(r"bar\\.sync|s_barrier", "nothing", asm)
    print(target, len(aot.races(asm)), len(aot.races(bare)))
"""


def test_the_barrier_check_sees_a_missing_barrier():
    for target, with_barrier, without in map(str.split, run_python("-c", SOURCE).splitlines()):
        assert int(with_barrier) == 0 and int(without) > 0, target


LOOP = """
$L__BB0_1:
  @%p1 ld.global.b32 {{ %r1 }}, [ %rd1 + 0 ];
  @%p2 bra $L__BB0_3;
  @%p1 st.global.b32 [ %rd2 + 0 ], {{ %r1 }};
{middle}
$L__BB0_3:
  @%p3 bra $L__BB0_1;
  ret;
"""


@pytest.mark.parametrize(
    ("middle", "loads"),
    [("", 1), ("  bar.sync 0;", 0), ("  bra.uni $L__BB0_1;\n  bar.sync 0;", 1), ("  ret;", 0)],
)
def test_races_follow_the_control_flow(middle, loads):
    found = races(LOOP.format(middle=middle))
    assert len(found) == loads
    assert all(re.search("ld.global", line) for line in found)
