"""Predictions with their spread, in a stream: for any number of molecules in the same memory."""

from __future__ import annotations

import csv
import gzip
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from torch_geometric.data import Data

from plstm_graph.molecules.console import Voice
from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.graphs import molecule, silent
from plstm_graph.molecules.options import PredictOptions
from plstm_graph.molecules.predictor import Predictor
from plstm_graph.molecules.store import ModelConfig
from plstm_graph.molecules.tables import Row, open_table

#: Bad rows that are named; all of them are counted, and all are empty in the file.
NAMED = 10


Read = tuple[int, str, dict[str, str], "Data | str"]


def read_row(row: Row) -> Read:
    """Number, SMILES and cells of a row, with its graph, or what is bad."""
    try:
        graph: Data | str = molecule(row.molecule())
    except ValueError as error:
        graph = f"{row.place} {row.smiles!r}: {error}"
    return row.number, row.smiles, row.values, graph


def read_rows(rows: list[Row]) -> list[Read]:
    with silent():
        return [read_row(row) for row in rows]


def chunks(items: Iterable, size: int) -> Iterator[list]:
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def read_chunks(rows: Iterable[Row], size: int, workers: int) -> Iterator[list[Read]]:
    """Rows with their graphs, in order; with workers, a few chunks are read ahead."""
    if not workers:
        yield from map(read_rows, chunks(rows, size))
        return
    import multiprocessing

    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        ahead = []
        for chunk in chunks(rows, size):
            ahead.append(pool.submit(read_rows, chunk))
            if len(ahead) > 2 * workers:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def columns_of(config: ModelConfig, taken: Sequence[str], spread: bool) -> list[str]:
    """Columns of a file of predictions: of each target the mean and the spread."""
    out = []
    for name in config.columns:
        name = f"{name}_predicted" if name in taken else name
        out += [name, f"{name}_spread"] if spread else [name]
    return out


def predict(
    options: PredictOptions,
    voice: Voice | None = None,
    watch: Callable[[int], None] = lambda count: None,
) -> dict:
    """Predict for a file of molecules, and write a CSV file.

    Args:
        options: of the call.
        voice: prints notes.
        watch: called with the number of rows after each chunk.

    Returns:
        "rows", "bad" (their number), "seconds".
    """
    voice = voice or Voice()
    predictor = Predictor.load(options.model, options.orientations, options.accelerator)
    keep = [name.strip() for name in options.keep.split(",") if name.strip()]
    table = open_table(
        options.input,
        smiles_column=options.smiles_column,
        wanted=keep,
        separator=options.separator,
        encoding=options.encoding,
        file_format=options.format,
    )
    for note in table.notes:
        voice.say(note)
    out = Path(options.out)
    if out.is_dir():
        raise InputError(f"expected out as a file to write, got the folder {out}")
    if out.exists() and out.resolve() == Path(options.input).resolve():
        raise InputError(f"expected out to be another file than the input, got {out} for both")
    out.parent.mkdir(parents=True, exist_ok=True)
    spread = predictor.samples > 1
    head = ["row", "smiles", *[name for name in keep if name not in ("row", "smiles")]]
    start, count, bad, named = time.perf_counter(), 0, 0, []
    handle, partial = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent)
    os.close(handle)
    opened = gzip.open if out.suffix.lower() == ".gz" else open
    try:
        with opened(partial, "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*head, *columns_of(predictor.config, head, spread)])
            width = len(predictor.config.columns) * (1 + spread)
            rows = voice.track(table, "molecules")
            for chunk in read_chunks(rows, options.batch_size, options.workers):
                graphs = [graph for *_, graph in chunk if isinstance(graph, Data)]
                found = iter(zip(*predictor.predict(graphs))) if graphs else iter(())
                for number, smiles, cells, graph in chunk:
                    texts = [""] * width
                    if isinstance(graph, Data):
                        mean, deviation = map(predictor.text, next(found))
                        pairs = zip(mean, deviation)
                        texts = [t for pair in pairs for t in pair] if spread else mean
                    else:
                        bad += 1
                        if len(named) < NAMED:
                            named.append(graph)
                    writer.writerow([number, smiles, *(cells[name] for name in head[2:]), *texts])
                count += len(chunk)
                watch(count)
        if not count:
            raise InputError(f"expected molecules in {table.path}, got a header only")
        os.chmod(partial, 0o644)
        os.replace(partial, out)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    seconds = time.perf_counter() - start
    if bad:
        more = f" and {bad - len(named)} more" if bad > len(named) else ""
        voice.say(
            f"{bad} of {count} molecules cannot be read, and their predictions are empty: "
            f"{', '.join(named)}{more}"
        )
    over = f"{predictor.orientations} orientations" if predictor.orientations > 1 else ""
    members = f"{len(predictor.nets)} networks" if len(predictor.nets) > 1 else ""
    mean = " and ".join(filter(None, (over, members)))
    voice.say(
        f"{count - bad} predictions written to {out}"
        + (f", each the mean over {mean} with its spread" if mean else "")
        + f" ({count / max(seconds, 1e-9):,.0f} molecules a second)"
    )
    return {"rows": count, "bad": bad, "seconds": seconds}
