"""The command `orchestrator`: finds commands without importing them, ends with stable codes.

Only click is imported here, so that `--help` is fast; each command is a module of
`orchestrator.commands` with an object `command`, imported when it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import click

from orchestrator.lazygroup import LazyGroup

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "run": "Build, push, measure and store: the main job.",
        "resume": "Complete a run that was cut short.",
        "build": "Build the artifacts of an experiment without measuring.",
        "boards": "List the boards; trust, provision, check and clean them.",
        "lab": "Virtual boards: emulated, on this machine.",
        "runs": "List past runs, or show one.",
        "compare": "Compare variants, boards or runs; says when one cannot.",
        "report": "Write a run as a page, beside the study it repeats.",
        "query": "Run SQL over everything that was ever measured.",
    }
)
"""Name and one-line help of every command; the module has the command's name."""

EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141
"""What a shell reports for a program that SIGPIPE ended."""
EXIT_UNEXPECTED: Final = 1


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata  # noqa: PLC0415 - slow to import, needed only here

    try:
        version = metadata.version("edge-orchestrator")
    except metadata.PackageNotFoundError:
        version = "(not installed: runs from its source folder)"
    click.echo(f"orchestrator {version}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    lines=COMMANDS,
    package="orchestrator.commands",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version.",
)
def cli(debug: bool) -> None:
    """Benchmark compressed vision models on Raspberry Pi boards.

    `orchestrator run --boards local` measures the shipped experiment on this machine.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors become messages on stderr."""
    args = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # builds import onnxruntime as well
    ctx: click.Context | None = None
    try:
        ctx = cli.make_context("orchestrator", args)
        with ctx:
            cli.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nInterrupted.", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except Exception as exc:  # noqa: BLE001 - the one place where any error ends the process
        return _report(exc, debug=ctx is not None and bool(ctx.params.get("debug")))
    return 0


def _report(error: Exception, *, debug: bool) -> int:
    """Print an error for a person and return its exit code."""
    from agent.wire import BenchError  # noqa: PLC0415 - --help does without it
    from orchestrator.text import printable  # noqa: PLC0415 - --help does without it

    if debug:
        import traceback  # noqa: PLC0415 - needed only here

        for line in "".join(traceback.format_exception(error)).splitlines():
            click.echo(printable(line), err=True)
    expected = isinstance(error, BenchError)
    text = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
    for index, line in enumerate(text.splitlines() or [type(error).__name__]):
        click.echo(("" if index else "Error: ") + printable(line), err=True)
    if isinstance(error, BenchError):
        return error.exit_code
    if not debug:
        click.echo("`orchestrator --debug ...` shows where it comes from.", err=True)
    return EXIT_UNEXPECTED


def _silence_stdout() -> None:
    """Keep the interpreter from complaining when it flushes a closed pipe at its end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
