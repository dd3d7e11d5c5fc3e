"""The report of the kernels: occupancy, workloads, and the promised ratios of bytes."""

import pytest

pytest.importorskip("triton")

from experiments.kernels import report


@pytest.mark.parametrize(
    ("target", "registers", "shared", "threads", "expected"),
    [
        ("sm_90", 32, 0, 128, 1.0),
        ("sm_90", 128, 0, 128, 0.25),
        ("sm_90", 121, 0, 128, 0.25),  # rounded up to a multiple of 8
        ("sm_80", 16, 82 << 10, 128, 2 * 4 / 64),  # bound by shared memory
        ("gfx942", 64, 0, 256, 1.0),
        ("gfx942", 256, 0, 256, 8 / 32),
    ],
)
def test_occupancy(target, registers, shared, threads, expected):
    row = {"target": target, "registers": registers, "shared": shared, "threads": threads}
    assert report.occupancy(row) == expected


def test_worst_of_each_kernel():
    rows = [
        {"kernel": "k", "target": "sm_90", "registers": r, "stack": 0, "spills": 0, "shared": s}
        | {"occupancy": o}
        for r, s, o in ((32, 8, 1.0), (64, 4, 0.5))
    ]
    (row,) = report.worst(rows)
    assert (row["registers"], row["shared"], row["configurations"]) == (64, 8, 2)
    assert row["occupancy"] == "0.50 to 1.00"


def test_bytes_of_the_workloads():
    rows = report.traffic_rows(report.workloads())
    assert {row["workload"] for row in rows} == {
        "64 molecules",
        "256 grids 14 x 14",
        "one DAG, 100,000 edges",
    }
    dense = [row for row in rows if row["kernel"].startswith("dense")]
    assert {row["workload"] for row in dense} == {"64 molecules"}
    assert all(row["roofline_us"] > 0 for row in rows)
    plain = [row for row in rows if "factored" not in row["kernel"]]
    assert all(row["over_least"] <= 1.3 for row in plain)
    assert all(row["over_least"] <= 1.6 for row in rows)
