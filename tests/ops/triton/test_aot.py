"""Kernels compile for every target, without spills, with the barriers they need."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from plstm_graph.ops.triton.aot import MODULES, TARGETS, races

ROOT = Path(__file__).parents[3]


def compiled(*arguments):
    """Lines of the command, run where kernels are compiled and not interpreted."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "plstm_graph.ops.triton.aot", *arguments],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


@pytest.mark.parametrize("module", MODULES)
def test_every_block_shape_and_variant_compiles(module):
    found = compiled("--sample", "--modules", module)
    assert {line["target"] for line in found} == set(TARGETS)
    for line in found:
        assert line["registers"] > 0
        assert (line["stack"], line["spills"]) == (0, 0), line
        assert line["races"] == [], line
        assert not line["tg_split"], line
        assert not line["rereads"] or line["threads"] >= 2 * TARGETS[line["target"]][2], line


SOURCE = """
import re
from plstm_graph.ops.triton import aot
spec = aot.shipped(["segment_scan"], full=False)[0]
for target in aot.TARGETS:
    asm = aot.compile_spec(spec, target).asm
    bare = re.sub(r"bar\\.sync|s_barrier", "nothing", asm)
    print(target, len(aot.races(asm)), len(aot.races(bare)))
"""


def test_the_barrier_check_sees_a_missing_barrier():
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SOURCE],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for target, with_barrier, without in map(str.split, out.splitlines()):
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
