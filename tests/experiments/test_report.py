"""The README's tables and charts are what the result files say."""

import shutil

import pytest

from experiments import report
from experiments.report_plots import PLOTS, draw, stored
from experiments.report_tables import NOT_RUN, TABLES, Results, markdown
from experiments.reporting import write_json


def test_readme_is_up_to_date():
    report.main(["--check"])


@pytest.fixture
def copy(tmp_path):
    """README, charts and result files to be changed; the arguments that point to them."""
    shutil.copy(report.ROOT / "README.md", tmp_path)
    shutil.copytree(report.ROOT / "docs", tmp_path / "docs")
    shutil.copytree(report.ROOT / "experiments" / "results", tmp_path / "results")
    places = {"readme": "README.md", "results": "results", "docs": "docs"}
    return tmp_path, [f"--{key}={tmp_path / name}" for key, name in places.items()]


def test_another_result_is_noticed_and_brought_in(copy):
    folder, args = copy
    assert report.main(args) == []
    old = Results(folder / "results").one("tu_gin_mutag")
    old["test_accuracy_folds"] = [0.25, 0.75]
    write_json(folder / "results" / "tu_gin_mutag.json", old)
    before = (folder / "README.md").read_text()
    with pytest.raises(SystemExit) as failed:
        report.main([*args, "--check"])
    text = str(failed.value)
    assert "-| GIN | 0.867" in text and "+| GIN | 0.500 ± 0.354 | 247,645 |" in text
    assert "mutag.png: another chart" in text and "run python -m experiments.report" in text
    assert (folder / "README.md").read_text() == before  # a check changes nothing
    assert report.main(args) == ["README.md", "mutag.png"]
    report.main([*args, "--check"])
    assert stored(folder / "docs" / "mutag.png")["bars"]["GIN"] == [0.25, 0.75]


def test_missing_chart_is_noticed(copy):
    folder, args = copy
    (folder / "docs" / "nci.png").unlink()
    with pytest.raises(SystemExit, match=r"nci\.png"):
        report.main([*args, "--check"])


@pytest.mark.parametrize("name", TABLES)
def test_missing_results(name, tmp_path):
    """A row, or the only one, says so; the heading is that of the whole table."""
    text = markdown(name, Results(tmp_path))
    assert NOT_RUN in text
    heading, rule, *rows = text.splitlines()
    assert (
        heading == markdown(name, Results(report.ROOT / "experiments" / "results")).split("\n")[0]
    )
    assert rows and {line.count("|") for line in (rule, *rows)} == {heading.count("|")}


def write_run(folder, name, seed, finished=True, **values):
    result = {"seed": seed, "finished": finished, "parameters": 1234, "seconds_per_epoch": 2.0}
    write_json(folder / f"{name}_seed{seed}.json", {**result, **values})


def test_neural_architectures(tmp_path):
    write_run(tmp_path, "na_plstm", 0, test_rmse=0.25, test_r=0.97)
    write_run(tmp_path, "na_plstm", 1, test_rmse=0.27, test_r=0.95)
    write_run(tmp_path, "na_plstm", 2, finished=False, test_rmse=0.5, test_r=0.5)
    write_run(tmp_path, "na_gcn", 0, test_rmse=0.6, test_r=0.8)
    rows = markdown("neural architectures", Results(tmp_path)).splitlines()[2:]
    assert rows == [
        "| pLSTM | 0.260 ± 0.014 | 0.960 ± 0.014 | 2 | 1,234 | 2.0 |",
        "| DAG-LSTM | not run yet | | | | |",
        "| GCN | 0.600 | 0.800 | 1 | 1,234 | 2.0 |",
        "| published DAGNN | 0.264 | 0.964 | | | |",
    ]
    with pytest.raises(LookupError):
        PLOTS["na.png"](Results(tmp_path))  # not before all rows are there
    write_run(tmp_path, "na_dag_lstm", 0, test_rmse=0.3, test_r=0.96)
    chart = PLOTS["na.png"](Results(tmp_path))
    assert chart["bars"] == {"pLSTM": [0.25, 0.27], "DAG-LSTM": [0.3], "GCN": [0.6]}
    draw(tmp_path / "na.png", chart)
    assert stored(tmp_path / "na.png") == chart


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<!-- table: MUTAG -->", "<!-- table: MUTTAG -->"),
        lambda text: text.replace("<!-- table: MUTAG -->", ""),
        lambda text: text.replace("<!-- table: MUTAG -->", "<!-- table: images -->"),
        lambda text: text + "<!-- table: open -->\n",
    ],
)
def test_places_that_do_not_fit(copy, change):
    folder, args = copy
    readme = folder / "README.md"
    readme.write_text(change(readme.read_text()))
    with pytest.raises(SystemExit, match=r"error: expected one place .* for each of MUTAG, "):
        report.main(args)
