"""The command line: ``plstm-graph train``, ``predict`` and ``explain``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn

from plstm_graph.molecules.errors import InputError
from plstm_graph.molecules.options import ExplainOptions, PredictOptions, TrainOptions

EXAMPLES = """\
examples:
  plstm-graph train --input data.csv --target-column a,b --split scaffold --out run
  plstm-graph predict --model run --input more.csv --out predictions.csv
  plstm-graph explain --model run --smiles "CCO" --out pictures
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _train(options: TrainOptions, command: Sequence[str]) -> Any:
    from plstm_graph.molecules.run import train

    return train(options, command=command)


def _predict(options: PredictOptions, command: Sequence[str]) -> Any:
    from plstm_graph.molecules.prediction import predict

    return predict(options)


def _explain(options: ExplainOptions, command: Sequence[str]) -> Any:
    from plstm_graph.molecules.explanation import explain

    return explain(options)


COMMANDS: dict[str, tuple[type, Callable]] = {
    "train": (TrainOptions, _train),
    "predict": (PredictOptions, _predict),
    "explain": (ExplainOptions, _explain),
}


def _number(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}") from None

    return read


def make_parser(prog: str = "plstm-graph") -> argparse.ArgumentParser:
    """The parser of all commands, made from their options."""
    parser = _Parser(
        prog=prog,
        description="Trains pLSTM on molecules, predicts, and explains predictions.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    for name, (options, _) in COMMANDS.items():
        text = options.__doc__.strip()
        command = commands.add_parser(
            name, help=text[0].lower() + text[1:].rstrip("."), description=text, allow_abbrev=False
        )
        for item in fields(options):
            _add(command, item)
    return parser


def _add(command: argparse.ArgumentParser, item: Any) -> None:
    meta, default = item.metadata, item.default
    flag, text = "--" + item.name.replace("_", "-"), meta["help"].replace("%", "%%")
    if meta["kind"] is bool:
        command.add_argument(flag, action="store_true", help=text)
        return
    shown = default not in (None, "", (), MISSING)
    if shown:
        words = " ".join(default) if isinstance(default, tuple) else f"{default}"
        text += f" Default: {words}."
    more: dict[str, Any] = {"choices": meta["choices"]} if meta["choices"] else {}
    if meta["many"]:
        more |= {"nargs": meta["many"]}
    if meta["kind"] is not str:
        more |= {"type": _number(meta["kind"])}
    if not meta["choices"]:
        more |= {"metavar": {"input": "FILE", "model": "FOLDER"}.get(
            item.name, {int: "N", float: "X"}.get(meta["kind"], "TEXT"))}  # fmt: skip
    command.add_argument(flag, default=default, help=text, **more)


def run(args: Sequence[str], prog: str = "plstm-graph") -> Any:
    """Call a command; what it returns.

    Raises:
        InputError: on what the user can put right.
    """
    parser = make_parser(prog)
    if not args:
        parser.print_help()
        return None
    found = vars(parser.parse_args(list(args)))
    name = found.pop("command")
    if name is None:
        raise InputError(f"expected a command out of {', '.join(COMMANDS)}, got none")
    options, function = COMMANDS[name]
    return function(options(**found), [prog, *args])


def main(args: Sequence[str] | None = None) -> int:
    """The console script: a mistake is a message and exit code 2."""
    args = sys.argv[1:] if args is None else args
    try:
        run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(
            f"error: a package is missing ({error}); pip install 'plstm-graph[molecules]'",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; call train again with the same options to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
