"""Several boards provisioned at the same time; one that fails stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from agent.wire import BenchError
from orchestrator.boards.remote import open_remote
from orchestrator.boards.sshcommand import SshTarget
from orchestrator.clones import Identity, keys_of
from orchestrator.errors import BoardUnreachable
from orchestrator.provision import advice, survey
from orchestrator.provision.install import Wish, bring
from orchestrator.provision.larder import Larder
from orchestrator.trust import recorded_lines

MAX_AT_ONCE: Final = 8
TRIES: Final = 3
"""A board that stops answering in the middle is called again; what has arrived is kept."""
_PAUSE_S: Final = 3.0

SayOf = Callable[[str, str], None]
"""Told a board's name and what happens there."""


@dataclass(frozen=True)
class Job:
    """One board of the inventory: how it is reached, its home there, and what it is to get."""

    target: SshTarget
    home: str
    wish: Wish


@dataclass(frozen=True)
class Outcome:
    """How it went with one board; what it is, as far as that was learned."""

    board: str
    error: BenchError | None
    identity: Identity | None


def provision(jobs: Sequence[Job], larder: Larder, say: SayOf) -> list[Outcome]:
    """Provision all boards, in order of `jobs`."""
    with ThreadPoolExecutor(max_workers=min(MAX_AT_ONCE, max(1, len(jobs)))) as pool:
        return list(pool.map(lambda job: _one(job, larder, say), jobs))


def _one(job: Job, larder: Larder, say: SayOf) -> Outcome:
    answers: list[survey.Survey] = []
    error: BenchError | None = None
    for attempt in range(TRIES):
        try:
            error = None
            _visit(job, larder, say, answers)
            break
        except BoardUnreachable as exc:
            error = exc
            if not answers:
                break  # it never answered: that is for a person to look at
            if attempt + 1 < TRIES:
                say(job.target.name, f"{exc}; it is called again")
                time.sleep(_PAUSE_S)
        except BenchError as exc:
            error = exc
            break
    return Outcome(job.target.name, error, _identity(job, answers[-1]) if answers else None)


def _visit(job: Job, larder: Larder, say: SayOf, answers: list[survey.Survey]) -> None:
    name = job.target.name
    with open_remote(job.target) as remote:
        first = not answers
        answers.append(survey.ask(remote, name, job.home))
        found = answers[-1]
        if first:
            say(name, f"{found.model or found.machine}, {found.os}, {found.libc}")
        bring(remote, job.wish, found, larder, lambda text: say(name, text))
        for note in advice.notes(found, name):
            say(name, f"note: {note}")


def _identity(job: Job, found: survey.Survey) -> Identity:
    return Identity(
        board=job.target.name,
        serial=found.serial,
        hostname=found.hostname,
        machine_id=found.machine_id,
        host_keys=keys_of(recorded_lines(job.target)),
    )
