"""The command line: `amc-tf VERB ...`, one module per verb.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed (one sentence on stderr), 2
wrong usage, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import amc_tf
from amc_tf.cli import (
    benchmark,
    bundle,
    compress,
    console,
    convert,
    demo,
    devices,
    export,
    finetune,
    inspect,
    prune,
    report,
    search,
    sparsify,
    sweep,
    table,
)
from amc_tf.cli.termination import Terminated, sigterm_raises
from amc_tf.errors import AmcError, RunStoppedError

_VERBS = {
    "demo": demo,
    "compress": compress,
    "inspect": inspect,
    "sweep": sweep,
    "search": search,
    "sparsify": sparsify,
    "prune": prune,
    "finetune": finetune,
    "convert": convert,
    "devices": devices,
    "benchmark": benchmark,
    "table": table,
    "bundle": bundle,
    "report": report,
    "export": export,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `amc-tf`; those of the process by default.

    Returns:
        The exit code.

    Raises:
        SystemExit: With 0 after `--help` and `--version`, with 2 after wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse(words)
    args.argv = ["amc-tf", *words]
    found = _to_overwrite(args)
    try:
        console.prepare(debug=args.debug, needs_keras=args.needs_keras)
        with sigterm_raises():
            code: int = args.run(args)
        sys.stdout.flush()
        return code
    except Terminated:
        console.fail(_interrupted(args, "Terminated", found))
        return 143
    except KeyboardInterrupt:
        console.fail(_interrupted(args, "Interrupted", found))
        return 130
    except BrokenPipeError:
        # Whoever read stdout has gone; what is left in its buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last stop: nothing may end in a traceback that nobody asked for
        if args.debug:
            traceback.print_exc()
        else:
            console.fail(_sentence(error, args))
        return 1


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; loads no TensorFlow."""
    parser = argparse.ArgumentParser(
        prog="amc-tf",
        description="Learned channel pruning for Keras classifiers: a model and its data in, a faster TFLite "
        "network out.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"amc-tf {amc_tf.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, module in _VERBS.items():
        summary = (module.__doc__ or "").partition(": ")[2].partition("\n")[0]
        verb = verbs.add_parser(name, help=summary.rstrip("."), description=summary, allow_abbrev=False)
        verb.set_defaults(run=module.run, needs_keras=True, usage_error=verb.error)
        module.add_arguments(verb)
        verb.add_argument("--json", action="store_true", help="print the result as one JSON document")
        verb.add_argument("--debug", action="store_true", help="show tracebacks and what libraries say")
        verb.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parses the words after `amc-tf`; twice, for a preset found once has changed the defaults.

    Raises:
        SystemExit: As `main`.
    """
    parser, joined = make_parser(), _join_negative_range(words)
    parser.parse_args(joined)
    return parser.parse_args(joined)


def _join_negative_range(words: Sequence[str]) -> list[str]:
    """Writes `--input-range -1..1` as one word: argparse takes the value for an option otherwise."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--input-range" and re.match(r"-\d", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _to_overwrite(args: argparse.Namespace) -> frozenset[tuple[Path, int, int]]:
    """Returns name, time and size of the files that a command, which can be resumed, is to overwrite."""
    if not (getattr(args, "overwrite", False) and hasattr(args, "resume")):
        return frozenset()
    found = set()
    with contextlib.suppress(OSError):  # nothing is there, or what was has gone in the meantime
        for path in (Path(args.out), *Path(args.out).rglob("*")):
            if path.is_file():
                status = path.stat()
                found.add((path, status.st_mtime_ns, status.st_size))
    return frozenset(found)


def _interrupted(args: argparse.Namespace, what: str, found: frozenset[tuple[Path, int, int]]) -> str:
    """Says how to go on; `found` are the files that were to be overwritten."""
    if not hasattr(args, "resume"):
        return f"{what}."
    if found and _to_overwrite(args) == found:
        return f"{what}; {args.out} is as it was. Start again with: {shlex.join(args.argv)}"
    return f"{what}; all up to the last checkpoint is saved. {_resume_hint(args)}"


def _resume_hint(args: argparse.Namespace) -> str:
    words = [word for word in args.argv if word not in ("--resume", "--overwrite")]
    return f"Go on with: {shlex.join([*words, '--resume'])}"


def _sentence(error: Exception, args: argparse.Namespace) -> str:
    if isinstance(error, RunStoppedError) and hasattr(args, "resume"):
        return f"{error} {_resume_hint(args)}"
    if isinstance(error, AmcError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"Memory ran out ({_first_line(error)}): close other programs or take fewer images."
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror or _first_line(error)}."
    return f"Unexpected {type(error).__name__}: {_first_line(error)}; run again with --debug to see where."


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
