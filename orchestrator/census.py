"""Asking many boards the same at once, without measuring anything."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from agent import wire
from orchestrator.boards.base import Board, Session
from orchestrator.errors import BoardUnreachable

MAX_AT_ONCE: Final = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What one board answered: a value, or the error that stood in the way."""

    board: str
    value: T | None
    error: wire.BenchError | None


def ask(
    boards: Sequence[Board], question: Callable[[Session], T], *, limit_s: float
) -> list[Answer[T]]:
    """Connect to every board and put `question`, in order of `boards`.

    The agent is deployed where it is missing. Each board has `limit_s` from when its turn comes;
    one that does not answer in time is BoardUnreachable, and its thread is left to its own
    deadlines.
    """
    done: queue.SimpleQueue[tuple[int, Answer[T] | BaseException]] = queue.SimpleQueue()
    answers: dict[int, Answer[T]] = {}
    due_s: dict[int, float] = {}
    begun = 0
    while len(answers) < len(boards):
        while begun < len(boards) and len(due_s) < MAX_AT_ONCE:
            threading.Thread(
                target=_ask, args=(begun, boards[begun], question, done), daemon=True
            ).start()
            due_s[begun] = time.monotonic() + limit_s
            begun += 1
        try:
            index, answer = done.get(timeout=max(0.0, min(due_s.values()) - time.monotonic()))
        except queue.Empty:
            index = min(due_s, key=lambda one: due_s[one])
            answer = _silent(boards[index].name, limit_s)
        if isinstance(answer, BaseException):
            raise answer
        if due_s.pop(index, None) is not None:  # else it comes too late
            answers[index] = answer
    return [answers[index] for index in range(len(boards))]


def _ask(
    index: int,
    board: Board,
    question: Callable[[Session], T],
    done: queue.SimpleQueue[tuple[int, Answer[T] | BaseException]],
) -> None:
    try:
        session = board.connect()
        try:
            done.put((index, Answer(board.name, question(session), None)))
        finally:
            session.close()
    except wire.BenchError as exc:
        done.put((index, Answer(board.name, None, exc)))
    except BaseException as exc:  # noqa: BLE001 - raised again where the answers are awaited
        done.put((index, exc))


def _silent(board: str, limit_s: float) -> Answer[T]:
    error = BoardUnreachable(
        f"no answer within {limit_s:g} s; is it switched on, on the network, and not very slow "
        f"(--within)?",
        board,
    )
    return Answer(board, None, error)
