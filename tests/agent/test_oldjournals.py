import os

import pytest
from support.agentkit import trial_spec

from agent import checks
from agent.journal import Journal, Started, Verdict
from agent.oldjournals import Waiting, waiting
from agent.report import Report
from agent.wire import Sources

STARTED = Started(5, Sources(temp=None, clock=None, throttled=None, power=None))


class Shelf:
    """Journals of several runs, each older than the next."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def add(self, run_id, *, ended=True, size_bytes=100_000):
        self.count += 1
        spec = trial_spec(f"trial-{self.count}", run_id=run_id)
        journal = Journal(self.folder, spec.trial_id)
        journal.create(spec, STARTED)
        if ended:
            journal.finalise(spec, STARTED, Report(), Verdict("finished", None, 9))
        (journal.directory / "padding").write_bytes(bytes(size_bytes))
        os.utime(journal.directory / "spec.json", ns=(self.count, self.count))


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


def test_what_waits(shelf):
    """The doctor learns how many ended trials of which runs are there."""
    assert waiting(shelf.folder / "absent") == Waiting(0, {})
    shelf.add("a")
    shelf.add("b", ended=False)
    shelf.add("a")
    found = waiting(shelf.folder)
    assert found.journals == 2
    assert found.bytes_by_run.keys() == {"a"}


def test_a_journal_without_a_readable_specification(shelf):
    """It waits under an unknown run rather than not at all."""
    shelf.add("old")
    (shelf.folder / "trial-1" / "spec.json").write_text("{")
    assert waiting(shelf.folder).bytes_by_run.keys() == {"unknown"}


@pytest.mark.parametrize(
    ("found", "words", "fix"),
    [
        (Waiting(0, {}), "none waits", ""),
        (Waiting(3, {"r2": 1, "r1": 2}), "3 of 2 runs", "`orchestrator resume r1`"),
    ],
)
def test_what_the_doctor_says(found, words, fix):
    """Waiting journals come with the command that stores them."""
    check = checks.journals(found)
    assert (check.name, check.state) == ("journals", "ok")
    assert words in check.found
    assert fix in check.fix
