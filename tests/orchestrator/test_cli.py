from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from orchestrator import cli
from orchestrator.errors import BoardUnreachable, RunIncomplete

ROOT = Path(cli.__file__).parents[1]

FAKE = """
import sys, time, types, click
from orchestrator import cli, errors
def act():
    {action}
module = types.ModuleType("orchestrator.commands.runs")
module.command = click.Command("runs", callback=act)
sys.modules[module.__name__] = module
raise SystemExit(cli.main({args!r}))
"""


def script(action: str, *args: str) -> list[str]:
    return [sys.executable, "-c", FAKE.format(action=action, args=[*args, "runs"])]


def start(command: list[str], **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, **more
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    def register(action: Callable[[], None]) -> None:
        module = types.ModuleType("orchestrator.commands.runs")
        module.command = click.Command("runs", callback=action)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return register


def test_help_lists_every_command_and_imports_none_of_the_heavy_packages() -> None:
    """`--help` lists all commands and loads no package that it does not need."""
    code = (
        "import sys; from orchestrator.cli import main; main(['--help']); "
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = start([sys.executable, "-c", code])
    assert done.returncode == 0
    text, _, loaded = done.stdout.partition("LOADED")
    for name, line in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert line in text
    heavy = "torch onnxruntime onnx sqlalchemy rich fabric paramiko rpyc numpy PIL yaml msgspec"
    assert not set(heavy.split()) & set(loaded.split())


def test_the_lines_of_help_fit_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command has its one line in `--help`, unwrapped at 80 columns."""
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    section = lines[lines.index("Commands:") + 1 :]
    assert len(section) == len(cli.COMMANDS)
    assert max(map(len, lines)) <= 80


def test_every_listed_command_has_a_module() -> None:
    """The table of commands names modules that are there."""
    for name in cli.COMMANDS:
        assert importlib.util.find_spec(f"orchestrator.commands.{name}") is not None, name


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the name and the version."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("orchestrator ")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["querry"], "No such command 'querry'. Did you mean 'query'?"),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["--frobnicate"], "No such option"),
        (["runs", "--frobnicate"], "No such option"),
    ],
)
def test_wrong_use_ends_with_2(
    args: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    fake: Callable[[Callable[[], None]], None],
) -> None:
    """Wrong use says what is wrong on stderr and ends with 2."""
    fake(lambda: None)
    assert cli.main(args) == 2
    assert expected in capsys.readouterr().err


def test_an_error_is_a_message_and_its_exit_code(
    capsys: pytest.CaptureFixture[str], fake: Callable[[Callable[[], None]], None]
) -> None:
    """An error of the tree prints its message to stderr, no traceback, and sets the exit code."""

    def fail() -> None:
        raise BoardUnreachable("no route to \x1b[31mhost\nturn it on", "pi5")

    fake(fail)
    assert cli.main(["runs"]) == 30
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Error: pi5: no route to \\x1b[31mhost\nturn it on\n")


def test_debug_shows_where_an_error_comes_from(
    capsys: pytest.CaptureFixture[str], fake: Callable[[Callable[[], None]], None]
) -> None:
    """`--debug` prints the traceback and keeps the exit code."""

    def fail() -> None:
        raise RunIncomplete("two boards failed")

    fake(fail)
    assert cli.main(["--debug", "runs"]) == 50
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("Error: two boards failed\n")


def test_an_unexpected_error_is_1_and_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], fake: Callable[[Callable[[], None]], None]
) -> None:
    """A bug ends with 1, its type and text, and the option that shows the traceback."""

    def fail() -> None:
        raise KeyError("absent")

    fake(fail)
    assert cli.main(["runs"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Error: unexpected KeyError: 'absent'\n")
    assert "--debug" in err
    assert "Traceback" not in err


def test_a_commands_own_exit_code_is_kept(fake: Callable[[Callable[[], None]], None]) -> None:
    """A command that exits with a code of its own ends the program with it."""
    fake(lambda: click.get_current_context().exit(7))
    assert cli.main(["runs"]) == 7


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("pass", 0),
        ("raise errors.InventoryError('x')", 10),
        ("raise errors.Interrupted('x')", 130),
        ("raise ValueError('x')", 1),
        ("raise click.BadParameter('x')", 2),
    ],
)
def test_the_exit_code_reaches_the_shell(action: str, expected: int) -> None:
    """The real process ends with the code of its error, without a traceback."""
    done = start(script(action))
    assert done.returncode == expected
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_with_130() -> None:
    """SIGINT in the middle of a command ends the process with 130 and one line."""
    process = subprocess.Popen(
        script("print('ready', flush=True); time.sleep(30)"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip() == "Interrupted."


@pytest.mark.parametrize("lines", [1, 200_000])
def test_a_closed_pipe_is_quiet(lines: int) -> None:
    """A reader that goes away, as `head` does, ends the program without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        script(f"click.echo('row ' * {lines})"),
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141


def test_python_m_is_the_same_program() -> None:
    """`python -m orchestrator` starts the command line too."""
    done = start([sys.executable, "-m", "orchestrator", "--help"])
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: orchestrator [OPTIONS] COMMAND")
