"""Kernels compile for every target, without spills, with the barriers they need."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from plstm_graph.ops.triton import aot
from plstm_graph.ops.triton.aot import TARGETS, races, shipped

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


def compiled():
    """Lines of the command."""
    return [json.loads(line) for line in run_python("-m", aot.__name__).splitlines()]


def test_every_shipped_configuration_compiles():
    """Without a stack, spills or missing barriers. Some minutes; seconds where nothing changed."""
    found = compiled()
    listed = {(spec.name, target) for spec in shipped() for target in TARGETS}
    assert len(listed) == len(TARGETS) * len(shipped())
    assert {(line["name"], line["target"]) for line in found} == listed
    for line in found:
        assert line["registers"] > 0
        assert (line["stack"], line["spills"]) == (0, 0), line
        assert line["races"] == [], line
        assert not line["tg_split"], line
        assert not line["rereads"] or line["threads"] >= 2 * TARGETS[line["target"]][2], line


def test_what_did_not_change_is_not_compiled_again(tmp_path, monkeypatch):
    """The second run reads what the first one left; another source, or option, is another file."""
    monkeypatch.setenv("PLSTM_COMPILE_CACHE", str(tmp_path))
    code = """
import dataclasses
from plstm_graph.ops.triton import aot
spec = aot.shipped(["level_scan"])[0]
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
from plstm_graph.ops.triton import aot
spec = aot.shipped(["segment_scan"])[0]
for target in aot.TARGETS:
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
