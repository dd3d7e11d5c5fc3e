"""The tables and charts of docs/results.md, from the result files.

    python -m experiments.report             # rewrite what is out of date
    python -m experiments.report --check     # fail, with a diff, if anything is

The page says where tables go: between ``<!-- table: NAME -->`` and ``<!-- /table -->``. The
tables are those of :mod:`experiments.report_tables` and :mod:`experiments.report_graph_tables`,
the charts in docs/ those of :mod:`experiments.report_plots`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from rich.console import Console

from datasets import InputError
from experiments import cli, report_graph_tables  # noqa: F401 the tables register themselves
from experiments.report_plots import PLOTS, draw, stored
from experiments.report_tables import TABLES, NotRun, Results, markdown

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def report(
    check: bool = False,
    page: Path = ROOT / "docs" / "results.md",
    results: Path = ROOT / "experiments" / "results",
    docs: Path = ROOT / "docs",
) -> list[str]:
    """Bring tables and charts up to date, or check that they are.

    Args:
        check: change nothing, and fail if anything is out of date.
        page: the file with the tables.
        results: folder of the result files.
        docs: folder of the charts.

    Returns:
        The names of the files that were out of date.
    """
    source = Results(results)
    old = page.read_text()
    new = with_tables(old, source)
    charts = {}
    for name, make in PLOTS.items():
        try:
            charts[name] = make(source)
        except NotRun:
            continue
    stale = [name for name, chart in charts.items() if stored(docs / name) != chart]
    if check and (new != old or stale):
        diff = difflib.unified_diff(
            old.splitlines(), new.splitlines(), page.name, "what the result files say",
            lineterm="",
        )  # fmt: skip
        charted = [f"{name}: another chart than the result files say" for name in stale]
        raise SystemExit(
            "\n".join([*diff, *charted, "error: run python -m experiments.report and commit"])
        )
    if new != old:
        page.write_text(new)
    for name in stale:
        draw(docs / name, charts[name])
    changed = [page.name] * (new != old) + stale
    Console().print(f"changed: {', '.join(changed) or 'nothing'}", highlight=False)
    return changed


def with_tables(text: str, results: Results) -> str:
    """The text with all its tables as the result files have them.

    Raises:
        InputError: if its places are not one for each table.
    """
    found = [name for _, name, _, _ in PLACE.findall(text)]
    if sorted(found) != sorted(TABLES) or text.count("<!-- table: ") != len(found):
        wrong = sorted({*found} ^ {*TABLES}) or sorted(found)
        raise InputError(
            f"expected one place '<!-- table: NAME -->' ... '<!-- /table -->' in the page for "
            f"each of {', '.join(sorted(TABLES))}, got others for {', '.join(wrong)}; add, remove "
            f"or close them"
        )
    return PLACE.sub(lambda place: f"{place[1]}\n{markdown(place[2], results)}\n\n{place[4]}", text)


def main(args: list[str] | None = None):
    """Command line."""
    return cli.run(report, args)


if __name__ == "__main__":
    main()
