"""`boards check` on a terminal: what needs a look, board by board, then a line for each board."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from agent.wire import RUNTIME_PACKAGES, Check
from orchestrator import tables
from orchestrator.census import Answer
from orchestrator.checkup import Findings, verdict
from orchestrator.tables import NONE, Column
from orchestrator.text import printable

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "cyan"}
_ORDER: Final = ("fail", "warn", "unknown", "ok")
_LONGEST_LINE: Final = 110
_STATE_WIDTH: Final = 7
_ARROW: Final = "→ "
_HARD_BLANK: Final = "\u00a0"
_NAMED: Final = 3
"""How many checks the line of a board names."""

WORDS: Final = "Findings and fixes are the boards' own words: read a command before you type it."


def show(out: Console, answers: Sequence[Answer[Findings]], *, verbose: bool) -> None:
    """Print the checks that failed or warn (all of them if `verbose`), then all boards."""
    any_fix = False
    for answer in answers:
        checks = _shown(answer, verbose=verbose)
        if not checks:
            continue
        any_fix |= any(check.fix for check in checks)
        out.print(Text(answer.board, style="bold"), soft_wrap=True)
        for line in _lines(checks, min(out.width, _LONGEST_LINE) if out.is_terminal else out.width):
            out.print(line, soft_wrap=True)
        out.print()
    _summary(out, answers)
    if any_fix:
        out.print(Text(WORDS, style="dim"), soft_wrap=True)


def _shown(answer: Answer[Findings], *, verbose: bool) -> list[Check]:
    """The checks to print, worst first."""
    if answer.value is None:
        return []
    states = _ORDER if verbose else _ORDER[:2]
    return [check for state in states for check in answer.value.checks if check.state == state]


def _lines(checks: Iterable[Check], width: int) -> Iterator[Text]:
    """State, name and finding in columns; below, from the name's column on, what to do."""
    made = [(check, printable(check.name)) for check in checks]
    name_width = min(20, max(len(name) for _, name in made))
    margin = " " * (2 + _STATE_WIDTH + 2)
    for check, name in made:
        head = f"{name:<{name_width}}  "
        found = _wrapped(printable(check.found), width, margin + " " * len(head))
        state = (f"  {check.state:<{_STATE_WIDTH}}  ", _STYLES[check.state])
        yield Text.assemble(state, head + found[0].lstrip())
        yield from (Text(line) for line in found[1:])
        if check.fix:
            fix = _wrapped(printable(check.fix), width, margin + " " * len(_ARROW))
            yield Text(margin + _ARROW + fix[0].lstrip(), style="dim")
            yield from (Text(line, style="dim") for line in fix[1:])


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    """Lines of at most `width`; a command in backticks stays on one line, so it can be copied."""
    kept = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", _HARD_BLANK), text)
    lines = textwrap.wrap(
        kept,
        max(width, len(indent) + 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_HARD_BLANK, " ") for line in lines] or [indent]


def _summary(out: Console, answers: Sequence[Answer[Findings]]) -> None:
    columns = [
        Column("board"),
        Column("verdict"),
        Column("to look at"),
        Column("what it is", spare=2),
        Column("instruction set", spare=3),
        Column("°C", figures=True, spare=1),
        Column("leased by", spare=1),
        Column("onnxruntime", spare=4),
        Column("more runtimes", spare=6),
        Column("Python", spare=5),
    ]
    tables.show(out, columns, [_row(answer) for answer in answers])


def _row(answer: Answer[Findings]) -> list[str]:
    said = verdict(answer)
    if answer.value is None:
        return [answer.board, said.upper(), type(answer.error).__name__, *[NONE] * 7]
    found, now = answer.value.hello.fingerprint, answer.value.hello.reading
    lease = answer.value.hello.lease
    cells = [
        answer.board,
        said.upper() if said == "not fit" else said,
        _to_look_at(answer.value.checks),
        found.board_model or found.cpu_model or found.machine,
        found.isa,
        NONE if now.temp_c is None else f"{now.temp_c:.1f}",
        NONE if lease is None else lease.holder,
        found.packages.get("onnxruntime", NONE),
        _more_runtimes(found.packages),
        found.python,
    ]
    return [printable(cell) for cell in cells]


def _more_runtimes(packages: Mapping[str, str]) -> str:
    there = [name for name, package in RUNTIME_PACKAGES.items() if package in packages]
    return ", ".join(name for name in there if name != "onnxruntime") or NONE


def _to_look_at(checks: Sequence[Check]) -> str:
    """Names of the worst checks, and how many could not be made."""
    names = [check.name for state in _ORDER[:2] for check in checks if check.state == state]
    more = f" +{len(names) - _NAMED}" if len(names) > _NAMED else ""
    parts = [", ".join(names[:_NAMED]) + more] if names else []
    unknown = sum(check.state == "unknown" for check in checks)
    parts += [f"{unknown} unknown"] if unknown else []
    return "; ".join(parts) or NONE
