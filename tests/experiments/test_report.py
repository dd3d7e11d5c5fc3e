"""The tables and charts of docs/results.md are what the result files say."""

import shutil

import pytest
from matplotlib import pyplot as plt

from datasets.tu import NAMES as TU
from experiments import report
from experiments.report_plots import PLOTS, _draw_bars, draw, stored
from experiments.report_tables import NOT_RUN, TABLES, Results, markdown
from experiments.reporting import write_json


def test_the_page_is_up_to_date():
    report.main(["--check"])


@pytest.fixture
def copy(tmp_path):
    """Page, charts and result files to be changed; the arguments that point to them."""
    shutil.copytree(report.ROOT / "docs", tmp_path / "docs")
    shutil.copytree(report.ROOT / "experiments" / "results", tmp_path / "results")
    places = {"page": "docs/results.md", "results": "results", "docs": "docs"}
    return tmp_path, [f"--{key}={tmp_path / name}" for key, name in places.items()]


def test_another_result_is_noticed_and_brought_in(copy):
    folder, args = copy
    assert report.main(args) == []
    old = Results(folder / "results").one("molecules_nci")
    old["models"]["gine"]["test"]["diameter"] = 0.25
    old["models"]["gine"]["runs"][0]["test"]["standardised_rmse"] = 0.25
    write_json(folder / "results" / "molecules_nci.json", old)
    before = (folder / "docs" / "results.md").read_text()
    with pytest.raises(SystemExit) as failed:
        report.main([*args, "--check"])
    text = str(failed.value)
    assert "+| diameter | 0.330 ± 0.004 | **0.250 ± " in text
    assert "nci.png: another chart" in text and "run python -m experiments.report" in text
    assert (folder / "docs" / "results.md").read_text() == before  # a check changes nothing
    assert report.main(args) == ["results.md", "nci.png"]
    report.main([*args, "--check"])
    assert stored(folder / "docs" / "nci.png")["bars"]["GINE"][0] == 0.25


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


@pytest.mark.parametrize("values, first", [([0.7, 0.8], 0.5), ([0.43, 0.8], 0.4)])
def test_no_bar_starts_outside_its_chart(values, first):
    chart = {"title": "sets", "axis": "accuracy", "runs": "folds", "bars": {"pLSTM": values},
             "published": {"published GIN": 0.6}, "start": 0.5}  # fmt: skip
    figure = _draw_bars(chart)
    assert figure.axes[0].get_xlim()[0] == first
    assert figure.axes[0].get_xlabel() == f"accuracy, bars from {first}"
    plt.close(figure)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<!-- table: OGB -->", "<!-- table: OBG -->"),
        lambda text: text.replace("<!-- table: OGB -->", ""),
        lambda text: text.replace("<!-- table: OGB -->", "<!-- table: images -->"),
        lambda text: text + "<!-- table: open -->\n",
    ],
)
def test_places_that_do_not_fit(copy, change):
    folder, args = copy
    page = folder / "docs" / "results.md"
    page.write_text(change(page.read_text()))
    with pytest.raises(SystemExit, match=r"error: expected one place .* for each of OGB, "):
        report.main(args)


def write_folds(folder, row, name, accuracies, seed=0):
    folds = {str(i): {"seconds_per_epoch": 1.0} for i in range(len(accuracies))}
    result = {"row": row, "dataset": name, "limit": None, "parameters": 1234, "folds": folds}
    scores = {"seed": seed, "test_accuracy_folds": accuracies}
    write_json(folder / f"tu_{row}_{name.lower()}_seed{seed}.json", {**result, **scores})


def test_tu_sets(tmp_path):
    for i, name in enumerate(TU):
        write_folds(tmp_path, "plstm", name, [0.5 + 0.1 * i, 0.6 + 0.1 * i] * 5)
    write_folds(tmp_path, "plstm", TU[0], [0.7, 0.6] * 5, seed=1)
    write_folds(tmp_path, "gin", TU[0], [0.7] * 10)
    rows = markdown("TU sets", Results(tmp_path)).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        *("| GAT, published", "| GCN, published", "| GIN, published", "| GIN"),
        *("| LSTM-GNN, published", "| MPNN, published", "| pLSTM, published", "| pLSTM"),
    ]
    assert rows[-1].startswith("| pLSTM | 0.6000 ± 0.073 (2) | 0.6500 ± 0.053 |")
    assert rows[-1].endswith("| 0.8500 ± 0.053 | 0.7125 ± 0.040 | 1,234 | 1.00 |")
    chart = PLOTS["tu.png"](Results(tmp_path))
    assert list(chart["bars"]) == ["pLSTM"]  # only rows with all sets
    assert chart["bars"]["pLSTM"] == pytest.approx([0.675, 0.75] * 5)  # each set counts once
    assert chart["published"]["published pLSTM"] == 0.7368


def test_ogb(tmp_path):
    values = {"train_seconds_per_epoch": 12.0}
    for seed, score in enumerate((0.77, 0.78)):
        run = {"metric": "roc_auc", "test_roc_auc": score}
        write_run(tmp_path, "ogb_gin_ogbg-molhiv", seed, **run, **values)
    write_run(tmp_path, "ogb_gin_ogbg-molesol", 0, metric="rmse", test_rmse=1.0, **values)
    unfinished = {"metric": "rmse", "test_rmse": 9.0, "finished": False, **values}
    write_run(tmp_path, "ogb_plstm_ogbg-molesol", 0, **unfinished)
    assert markdown("OGB", Results(tmp_path)).splitlines()[2:] == [
        "| GIN | 0.775 ± 0.007 (2) | 1.000 (1) | | | 1,234 | 12.0 |",
        "| GIN + virtual node, published | 0.771 | | | | | |",
    ]


def test_peptides(tmp_path):
    values = {"metric": "average_precision", "test_average_precision": 0.6, "epochs_done": 5}
    values |= {"protocol": {"epochs": 5}, "limit": None, "train_seconds_per_epoch": 9.0}
    write_run(tmp_path, "peptides_plstm_peptides-func", 0, **values)
    assert markdown("Peptides-func", Results(tmp_path)).splitlines()[2:] == [
        "| pLSTM | 0.6000 | 0.5360 | 1 | 5/5 | 1,234 | 9.0 |",
    ]
