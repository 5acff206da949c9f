import os

import pytest
from support.agentkit import trial_spec

from agent import checks
from agent.journal import Journal, Started, Verdict
from agent.oldjournals import Removed, Waiting, make_room, removed, waiting
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

    def left(self):
        return sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".")


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


def test_within_the_limits_nothing_goes(shelf):
    """Journals that nobody fetched are kept as long as there is room."""
    for _ in range(5):
        shelf.add("old")
    make_room(shelf.folder, "new", 10**9, 6)
    assert len(shelf.left()) == 5
    assert removed(shelf.folder) == Removed()


def test_the_oldest_go_first(shelf):
    """Beyond the limit in bytes the oldest go until the rest fits, and it is noted."""
    for run_id in ("a", "a", "b", "c"):
        shelf.add(run_id)
    make_room(shelf.folder, "new", 250_000)
    assert shelf.left() == ["trial-3", "trial-4"]
    noted = removed(shelf.folder)
    assert (noted.journals, noted.runs) == (2, ("a",))
    assert noted.size_bytes > 200_000


def test_too_many_count_as_well(shelf):
    """So many journals that listing them takes long make room for one more."""
    for _ in range(4):
        shelf.add("old")
    make_room(shelf.folder, "new", 10**9, 3)
    assert shelf.left() == ["trial-3", "trial-4"]


def test_what_is_never_removed(shelf):
    """The run's own journals and trials that have not ended stay, whatever the limit."""
    shelf.add("mine")
    shelf.add("old", ended=False)
    shelf.add("old")
    make_room(shelf.folder, "mine", 0)
    assert shelf.left() == ["trial-1", "trial-2"]


def test_a_journal_without_a_readable_specification(shelf):
    """It belongs to an unknown run and goes like any other."""
    shelf.add("old")
    (shelf.folder / "trial-1" / "spec.json").write_text("{")
    make_room(shelf.folder, "new", 0)
    assert shelf.left() == []
    assert removed(shelf.folder).runs == ("unknown",)


def test_what_waits(shelf):
    """The doctor learns how many ended trials of which runs are there, and what went."""
    assert waiting(shelf.folder / "absent") == Waiting(0, {}, Removed())
    shelf.add("a")
    shelf.add("b", ended=False)
    shelf.add("a")
    found = waiting(shelf.folder)
    assert found.journals == 2
    assert found.bytes_by_run.keys() == {"a"}
    (shelf.folder / ".removed.json").write_text("torn")
    assert waiting(shelf.folder).removed == Removed()


@pytest.mark.parametrize(
    ("found", "state", "words", "fix"),
    [
        (Waiting(0, {}, Removed()), "ok", "none waits", ""),
        (
            Waiting(3, {"r2": 1, "r1": 2}, Removed()),
            "ok",
            "3 of 2 runs",
            "`orchestrator resume r1`",
        ),
        (
            Waiting(1, {"r1": 2}, Removed(7, 5 << 20, ("x", "y"))),
            "warn",
            "7 (5 MiB) were removed to make room",
            "`orchestrator resume r1`",
        ),
    ],
)
def test_what_the_doctor_says(found, state, words, fix):
    """Waiting journals come with the command that stores them; removed ones are a warning."""
    check = checks.journals(found)
    assert (check.name, check.state) == ("journals", state)
    assert words in check.found
    assert fix in check.fix
