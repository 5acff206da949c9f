"""No wait without an end: calls that block and were given no time are known one by one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("agent", "models", "orchestrator", "results")
BLOCKING: Final = frozenset({"acquire", "get", "join", "result", "wait"})

BOUNDED: Final = {
    ("agent/keeper.py", "self._thread.join()"): "it is within one sync of the trial's own disk, "
    "which closing the journal needs next in any case",
    ("agent/runner.py", "self._thread.join()"): "for a trial that was cut: its worker is killed "
    "within the patience of end_group, then its journal is closed",
    ("agent/sampler.py", "self._thread.join()"): "it is within one reading, the command of which "
    "has a time limit",
    ("agent/supervisor.py", "current.join()"): "as in agent/runner.py, which it calls",
    ("models/locking.py", "fcntl.flock(file, fcntl.LOCK_EX)"): "another process draws the same "
    "images, takes the same ranges, gets the same weights, builds the same or trains on the GPU, "
    "which may take hours and is said then; the kernel frees it with its holder",
    ("models/pool.py", "future.result()"): "concurrent.futures.wait said that it is done",
    ("models/pool.py", "queue.get()"): "in a daemon's thread, which nobody waits for longer "
    "than a few seconds",
    ("models/store.py", "fcntl.flock(handle, fcntl.LOCK_SH)"): "on a folder that was made a moment "
    "ago under a name of its own",
    ("models/train/examples.py", "waiting.popleft().result()"): "a thread of this process that "
    "computes a batch and waits for nothing",
    ("orchestrator/builders/dask.py", "done.result()"): "a build, which may train for "
    "hours; it ends as the one below",
    ("orchestrator/builders/dask.py", "future.result()"): "a build, which may train for "
    "hours; Dask ends it when the worker is lost",
    ("orchestrator/builders/farmhand.py", "ear.join()"): "it ends with the builder, a process "
    "whose standard output has ended",
    ("orchestrator/builders/farmhand.py", "mouth.join()"): "as the one above it",
    ("orchestrator/conduct.py", "receipt.result()"): "the conductor answers, or the run is "
    "over and this daemon's thread with it",
    ("orchestrator/conduct.py", "self._desk.inbox.get()"): "every board's thread says that it "
    "ended, and has a time limit for each of its own waits",
}  # fmt: skip
"""File and call of what waits without a time of its own, and what ends it."""


def blocking_calls(text: str) -> Iterator[tuple[int, str]]:
    """Line and source of each call that blocks until something else happens.

    That is one of a blocking method without any argument, or of flock without LOCK_NB.
    """
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        call = ast.unparse(node)
        endless = node.func.attr in BLOCKING and not (node.args or node.keywords)
        lock = node.func.attr == "flock" and not ("LOCK_NB" in call or "LOCK_UN" in call)
        if endless or lock:
            yield node.lineno, call


def found() -> dict[tuple[str, str], int]:
    calls = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, call in blocking_calls(path.read_text()):
                calls[path.relative_to(ROOT).as_posix(), call] = line
    return calls


def test_every_wait_has_an_end() -> None:
    """A wait in our packages has a time limit, or is listed with what ends it."""
    unknown = [f"{file}:{line}: {call}" for (file, call), line in found().items()
               if (file, call) not in BOUNDED]  # fmt: skip
    assert unknown == [], "give these a time limit, or say in BOUNDED what ends them"


def test_the_list_of_waits_has_nothing_old() -> None:
    """What is listed is still there, each with its reason."""
    assert BOUNDED.keys() - found().keys() == set()
    assert all(len(reason.split()) > 2 for reason in BOUNDED.values())


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("process.wait()", ["process.wait()"]),
        ("if x:\n    self.pool[0].result()", ["self.pool[0].result()"]),
        ("', '.join(x); d.get('k'); p.wait(3); q.get(timeout=1); lock.acquire(blocking=False)", []),
        ("wait()", []),
        ("fcntl.flock(f, fcntl.LOCK_EX)", ["fcntl.flock(f, fcntl.LOCK_EX)"]),
        ("fcntl.flock(f, LOCK_EX | LOCK_NB); fcntl.flock(f, fcntl.LOCK_UN)", []),
    ],
)  # fmt: skip
def test_what_counts_as_such_a_wait(text: str, calls: list[str]) -> None:
    """A method without arguments is one; the joining of text and a limited wait are none."""
    assert [call for _, call in blocking_calls(text)] == calls
