"""What `boards check` makes of a board's diagnosis: its clock beside ours, a verdict, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from agent import wire
from agent.wire import Check
from orchestrator.boards.base import Session
from orchestrator.census import Answer
from orchestrator.clock import Clock
from orchestrator.clones import Identity
from orchestrator.errors import BoardFailure, BoardUnfit, BoardUnreachable

LIMIT_S: Final = 90.0
"""Longer than the doctor's own limit for its one slow part, the import of the runtime."""

SKEW_LIMIT_S: Final = 5.0
"""The answer's way back and a slow card take less."""

OLDEST_YEAR: Final = 2020
MAX_CHECKS: Final = 64
MAX_TEXT: Final = 400
"""A diagnosis is the board's to write; what is beyond these is left out."""

_POLL_S: Final = 0.5
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Verdict = Literal["ready", "ready with warnings", "not fit", "no answer", "failed"]


@dataclass(frozen=True)
class Findings:
    """A board that answered: who it is, and all that was checked."""

    hello: wire.Hello
    machine_id: str | None
    checks: tuple[Check, ...]


def examine(session: Session, host: str, clock: Clock) -> Findings:
    """Have a board look at itself; raises BoardFailure when that takes too long."""
    hello = session.hello(host)
    due_s = clock.monotonic_s() + LIMIT_S
    while True:
        diagnosis = session.doctor()
        if diagnosis.complete:
            break
        if clock.monotonic_s() > due_s:
            raise BoardFailure(
                f"its diagnosis did not end within {LIMIT_S:g} s; log.txt in the agent's "
                f"directory may say why",
                session.board,
            )
        clock.sleep(_POLL_S)
    if not diagnosis.checks:
        raise wire.WireError(f"{session.board}: its diagnosis has no checks")
    checks = tuple(_trimmed(check) for check in diagnosis.checks[:MAX_CHECKS])
    skew = clock_check(diagnosis.board_utc_ns, clock.utc())
    return Findings(hello, diagnosis.machine_id, (*checks, skew))


def clock_check(board_utc_ns: int, now: datetime) -> Check:
    """A board's wall clock beside the host's; nothing that is measured depends on it."""
    fix = (
        "results do not suffer: on a board only its monotonic clock is used; its log and its TLS "
        "do: on the board type `sudo timedatectl set-ntp true`, which needs a time server"
    )
    try:
        board = _EPOCH + timedelta(microseconds=board_utc_ns // 1000)
    except OverflowError:
        return Check("clock", "warn", "its date is not a date", fix)
    if board.year < OLDEST_YEAR:
        return Check("clock", "warn", f"it says {board:%Y-%m-%d %H:%M} UTC", fix)
    skew_s = (board - now).total_seconds()
    if abs(skew_s) <= SKEW_LIMIT_S:
        return Check("clock", "ok", f"within {SKEW_LIMIT_S:g} s of this host's", "")
    side = "ahead of" if skew_s > 0 else "behind"
    return Check("clock", "warn", f"{_span(abs(skew_s))} {side} this host's", fix)


def verdict(answer: Answer[Findings]) -> Verdict:
    """Whether a board can be trusted now."""
    if answer.value is None:
        return "no answer" if isinstance(answer.error, BoardUnreachable) else "failed"
    states = {check.state for check in answer.value.checks}
    if "fail" in states:
        return "not fit"
    return "ready with warnings" if "warn" in states else "ready"


def unfit(answers: Iterable[Answer[Findings]]) -> list[wire.BenchError]:
    """The errors of boards that did not answer, and one of each that must not measure."""
    found: list[wire.BenchError] = []
    for answer in answers:
        if answer.error is not None:
            found.append(answer.error)
        elif answer.value is not None and verdict(answer) == "not fit":
            reasons = [f"{c.name}: {c.found}" for c in answer.value.checks if c.state == "fail"]
            found.append(BoardUnfit(f"not fit now: {'; '.join(reasons)}", answer.board))
    return found


def identities(
    answers: Iterable[Answer[Findings]], trusted: Sequence[Identity], here: Iterable[str]
) -> list[Identity]:
    """What tells the boards apart; of the boards `here` on this machine only the first."""
    keys = {one.board: one.host_keys for one in trusted}
    hidden = set(list(here)[1:])
    found = []
    for answer in answers:
        host_keys = keys.get(answer.board, frozenset())
        if answer.board in hidden:
            continue
        if answer.value is None:
            found.append(Identity(answer.board, host_keys=host_keys))
            continue
        facts = answer.value.hello.fingerprint
        found.append(
            Identity(
                board=answer.board,
                serial=facts.serial or "",
                hostname=facts.hostname,
                machine_id=answer.value.machine_id or "",
                host_keys=host_keys,
            )
        )
    return found


def as_json(answers: Iterable[Answer[Findings]], warnings: Sequence[str]) -> dict[str, Any]:
    """All of it as JSON has it; absent facts are null."""
    return {"boards": [_board_json(answer) for answer in answers], "warnings": list(warnings)}


def _board_json(answer: Answer[Findings]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "board": answer.board,
        "verdict": verdict(answer),
        "error": None,
        "fingerprint": None,
        "leased_by": None,
        "checks": [],
    }
    if answer.error is not None:
        kind = type(answer.error)
        body["error"] = {
            "class": kind.__name__,
            "exit_code": kind.exit_code,
            "message": str(answer.error),
        }
    if answer.value is not None:
        hello = answer.value.hello
        body["fingerprint"] = wire.decode(wire.encode(hello.fingerprint), dict)
        body["leased_by"] = None if hello.lease is None else hello.lease.holder
        body["checks"] = [wire.decode(wire.encode(check), dict) for check in answer.value.checks]
    return body


def _trimmed(check: Check) -> Check:
    name, found, fix = (text[:MAX_TEXT] for text in (check.name, check.found, check.fix))
    return Check(name, check.state, found, fix)


def _span(seconds: float) -> str:
    """A span of time in its largest fitting unit."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
