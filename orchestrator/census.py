"""Asking many boards at once what they are, without measuring anything."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agent import wire
from orchestrator.boards.base import Board

MAX_AT_ONCE = 32


@dataclass(frozen=True)
class Answer:
    """What one board answered: a hello, or the error that stood in the way."""

    board: str
    hello: wire.Hello | None
    error: wire.BenchError | None


def ask(boards: Sequence[Board], host: str) -> list[Answer]:
    """Connect to every board, in order of `boards`; deploys the agent where it is missing."""
    with ThreadPoolExecutor(max_workers=min(MAX_AT_ONCE, max(1, len(boards)))) as pool:
        return list(pool.map(lambda board: _ask(board, host), boards))


def _ask(board: Board, host: str) -> Answer:
    try:
        session = board.connect()
        try:
            return Answer(board.name, session.hello(host), None)
        finally:
            session.close()
    except wire.BenchError as exc:
        return Answer(board.name, None, exc)
