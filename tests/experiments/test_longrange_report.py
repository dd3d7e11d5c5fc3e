"""The tables of the long-range tasks, and the published numbers in them."""

import json

import pytest

from experiments.longrange import published, runs
from experiments.longrange import report as tables


def fabricated(row, name, seed, targets, test, **more):
    return {
        "row": row, "set": name, "seed": seed, "finished": True, "epochs_done": 5,
        "targets": [{"name": target} for target in targets], "test": test, "parameters": 60_000,
        "cpu_seconds_per_epoch": 2.0 + seed, **more,
    }  # fmt: skip


def test_report(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"ROW_SET_seedN.json in .*, got none; train first"):
        runs.main(["report", "--results", str(tmp_path)])
    files = []
    for seed in (0, 1):
        test = {
            name: {"log_mse": -2.0 - seed, "mse": 10.0 ** (1 - seed), "mae": 0.5 + seed}
            for name in ("sssp", "ecc", "diam")
        }
        files.append(fabricated("plstm", "gpp", seed, test, test))
        files.append(fabricated("ablation", "gpp", seed, test, test, finished=seed == 0))
    files.append(fabricated("gin", "gpp", 0, test, test))
    files.append(
        fabricated("gin", "transfer_line_50", 0, ["transfer"], {"transfer": {"mse": 0.03}})
    )
    files.append(
        fabricated("gps", "tree_5", 0, ["value"], {"value": {"accuracy": 0.25}}, train_accuracy=0.5)
    )
    for i, content in enumerate(files):
        (tmp_path / f"{content['row']}_{content['set']}_seed{i}.json").write_text(
            json.dumps(content)
        )
    (tmp_path / "select_gin_gpp.json").write_text("{}")
    text = runs.main(["report", "--results", str(tmp_path)])
    assert (tmp_path / tables.TABLES).read_text() == text
    assert text.strip() in capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    assert [name for name in rows if "published" not in name and "-" not in name] == [
        "model", "GIN", "pLSTM", "ablation *", "GPS",
    ]  # fmt: skip
    assert rows["pLSTM"][:3] == ["-2.50 ± 0.71", "0.50 ± 0.71", "1.000 ± 0.707"]
    assert rows["pLSTM"][-3:] == ["60,000", "2.5", "2"]
    assert rows["SONAR, published"][:5] == ["", "-6.752", "", "", "-3.119"]
    assert rows["GRAMA, published"][0] == "9.3e-07"
    assert rows["GPS"][:2] == ["0.500", "0.250"]
    assert rows["GGNN, published"][:2] == ["0.600", ""]
    for heading in ("Graph property prediction", "Graph transfer (line, 50)"):
        assert f"## {heading}\n" in text
    assert "not the digits" in text


@pytest.mark.parametrize(
    "name, target, value",
    [
        ("echo", "ecc", 0.885),
        ("barbell_50", "mean", 0.083),
        ("transfer_ring_50", "transfer", None),
        ("transfer_ring_10", "transfer", None),
        ("barbell_7", "mean", None),
        ("tree_8", "value", None),
    ],
)
def test_published(name, target, value):
    found = published.published(name)
    assert found.get("ONDA", {}).get(target) == value
    assert all(set(row) <= {"sssp", "ecc", "diam", target} for row in found.values())
