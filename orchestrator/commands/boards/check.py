"""`orchestrator boards check`: whether boards answer, and what they are."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands import inventory_option
from orchestrator.commands.boards import fail_together, opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.census import Answer
    from orchestrator.clones import Identity

_MEBIBYTE = 1 << 20


@click.command("check")
@click.argument("boards", default="all")
@inventory_option
def command(boards: str, inventory: Path | None) -> None:
    """Contact BOARDS (default: all) and show what each of them is.

    The agent is installed where it is missing. The exit code is that of the failures' class.
    """
    from orchestrator import census, clones, tables, trust  # noqa: PLC0415 - keeps --help fast
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator.boards.registry import make_board  # noqa: PLC0415 - keeps --help fast
    from orchestrator.tables import Column  # noqa: PLC0415 - keeps --help fast
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    place, known = opened(inventory)
    entries = inventories.select(known, boards)
    answers = census.ask(
        [make_board(entry, known, place) for entry in entries], socket.gethostname()
    )
    columns = [
        Column("board"),
        Column("state"),
        Column("what it is"),
        Column("instruction set", spare=1),
        Column("cores", figures=True),
        Column("free MiB", figures=True),
        Column("°C", figures=True),
        Column("Python", spare=3),
        Column("onnxruntime", spare=2),
    ]
    tables.show(tables.console(), columns, [_row(answer) for answer in answers])
    errors = [answer.error for answer in answers if answer.error is not None]
    for answer in answers:
        if answer.hello is not None and answer.hello.fingerprint.emulated:
            click.echo(f"{answer.board}: emulated; its times are no speeds")
    for warning in clones.warnings(_identities(answers, trust.identities(place.known_hosts))):
        click.echo(f"WARNING: {printable(warning)}")
    fail_together(errors)


def _identities(answers: Sequence[Answer], trusted: Sequence[Identity]) -> list[Identity]:
    """What tells the boards that answered apart: their fingerprints and their host keys."""
    from orchestrator.clones import Identity  # noqa: PLC0415 - keeps --help fast

    keys = {one.board: one.host_keys for one in trusted}
    return [
        Identity(
            board=answer.board,
            serial=answer.hello.fingerprint.serial or "",
            hostname=answer.hello.fingerprint.hostname,
            host_keys=keys.get(answer.board, frozenset()),
        )
        for answer in answers
        if answer.hello is not None
    ]


def _row(answer: Answer) -> list[str]:
    from orchestrator.text import printable  # noqa: PLC0415 - keeps --help fast

    if answer.hello is None:
        return [answer.board, "FAILED", type(answer.error).__name__, *["-"] * 6]
    found, now = answer.hello.fingerprint, answer.hello.reading
    free = now.memory_available_bytes
    held = answer.hello.lease
    return [
        answer.board,
        "ready" if held is None else f"leased by {printable(held.holder)}",
        printable(found.board_model or found.cpu_model or found.machine),
        found.isa,
        str(found.cpu_count),
        "-" if free is None else str(free // _MEBIBYTE),
        "-" if now.temp_c is None else f"{now.temp_c:.1f}",
        printable(found.python),
        printable(found.packages.get("onnxruntime", "-")),
    ]
