import os
import zlib

import pytest
from support.agentkit import trial_spec

from agent.errors import Refused
from agent.journal import Journal, Started, Verdict, all_journals
from agent.report import Report
from agent.wire import (
    FailureKind,
    ImageDetections,
    ImageMask,
    Reading,
    Sources,
    decode_samples,
    encode,
    samples_header,
)

STARTED = Started(5, Sources(temp="t", clock=None, throttled=None, power=None))
DONE = Verdict("finished", None, 99)


def reading(t_ns):
    return Reading(t_ns, 40.0, None, None, None, None, None)


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path, "trial-1")
    made.create(trial_spec(), STARTED)
    return made


def finalise(journal, verdict=DONE):
    return journal.finalise(trial_spec(), STARTED, Report(), verdict)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "-dash", "x" * 65, "a\n", "ä"]
)
def test_names(tmp_path, name):
    """A trial's id cannot lead out of the directory of trials."""
    with pytest.raises(Refused, match="trial_id") as caught:
        Journal(tmp_path, name)
    assert caught.value.failure.kind is FailureKind.BAD_REQUEST


def test_begin(journal):
    """A new journal knows its specification and start, is private, and has no outcome."""
    assert journal.exists()
    assert journal.spec() == trial_spec()
    assert journal.started() == STARTED
    assert journal.outcome() is None
    assert journal.directory.stat().st_mode & 0o777 == 0o700


def test_parts_and_digests(journal):
    """The outcome lists each part that exists with the size and digest of what is read back."""
    path = journal.directory / "readings.jsonl"
    path.write_bytes(encode(reading(7)).encode() + b"\n")
    outcome = finalise(journal)
    assert set(outcome.parts) == {"readings"}
    assert outcome.parts["readings"].size_bytes == path.stat().st_size
    assert outcome == journal.outcome()
    whole = journal.read("readings", 0, 1 << 20)
    assert whole == path.read_bytes()
    assert journal.read("readings", 3, 4) == whole[3:7]


@pytest.mark.parametrize(
    ("part", "offset", "length"),
    [
        ("readings", 10_000, 5),
        ("readings", -1, 5),
        ("readings", 0, 0),
        ("readings", 0, -5),
        ("detections", 0, 5),
        ("spec.json", 0, 5),
        ("../trial-1/spec.json", 0, 5),
    ],
)
def test_read_nothing(journal, part, offset, length):
    """Past the end, and for whatever is not a part, there are no bytes."""
    (journal.directory / "readings.jsonl").write_bytes(encode(reading(7)).encode() + b"\n")
    finalise(journal)
    assert journal.read(part, offset, length) == b""


@pytest.mark.parametrize("tail", [b'{"t_ns": 3', b"\0" * 512, b'{"t_ns":"x"}\n', b"\xff\xfe\n"])
def test_torn_lines(journal, tail):
    """A line that a crash left unfinished is dropped; those before it are kept as they were."""
    good = encode(reading(7)).encode() + b"\n" + encode(reading(8)).encode() + b"\n"
    image = encode(ImageDetections("a", ())).encode() + b"\n"
    (journal.directory / "readings.jsonl").write_bytes(good + tail)
    (journal.directory / "detections.jsonl").write_bytes(image + tail)
    mask = encode(ImageMask("a", 1, 2, zlib.compress(b"\0\1"))).encode() + b"\n"
    (journal.directory / "masks.jsonl").write_bytes(mask + tail)
    finalise(journal)
    assert journal.read("readings", 0, 4096) == good
    assert journal.read("detections", 0, 4096) == image
    assert journal.read("masks", 0, 4096) == mask


def test_samples_are_closed(journal):
    """The samples part is what was recorded, counted, whatever room was taken for it."""
    data = samples_header(4, (1, 0, 0)) + b"".join(
        value.to_bytes(8, "little") for value in (9, 8, 7, 0, 1, 1, 1, 0)
    )
    (journal.directory / "samples.bin").write_bytes(data)
    outcome = finalise(journal, Verdict("interrupted", None, 99))
    samples = decode_samples(journal.read("samples", 0, 4096))
    assert samples.counts == (1, 2, 0)
    assert outcome.parts["samples"].size_bytes == 40 + 3 * 16


def test_damaged_samples(journal):
    """A samples file that cannot be understood fails the trial in words, and is put aside."""
    (journal.directory / "samples.bin").write_bytes(b"nonsense")
    outcome = finalise(journal)
    assert outcome.state == "failed"
    assert outcome.failure is not None
    assert "damaged" in outcome.failure.message
    assert "samples" not in outcome.parts
    assert (journal.directory / "samples.damaged").read_bytes() == b"nonsense"


def test_damaged_outcome(journal):
    """An outcome that is not whole counts as none, so the trial is recovered again."""
    finalise(journal)
    path = journal.directory / "outcome.json"
    path.write_bytes(path.read_bytes()[:-5])
    assert journal.outcome() is None


def test_room_for_the_end(journal):
    """The room kept free from the start is given up for the outcome."""
    assert (journal.directory / "ballast").stat().st_blocks * 512 >= 1 << 18
    finalise(journal)
    assert not (journal.directory / "ballast").exists()


def test_outcome_survives_a_disk_that_takes_nothing(journal, monkeypatch):
    """When not even the outcome can be written it is still told, with the reason."""

    def full(*_args):
        raise OSError(28, "No space left on device")

    (journal.directory / "readings.jsonl").write_bytes(b"torn")
    monkeypatch.setattr("agent.journal.replace_file", full)
    outcome = finalise(journal)
    assert outcome.state == "failed"
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.DISK_FULL
    assert journal.outcome() is None


def test_no_begin_on_a_full_disk(tmp_path, monkeypatch):
    """A journal that cannot be begun leaves nothing behind."""

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    journal = Journal(tmp_path, "trial-1")
    with pytest.raises(OSError, match="No space"):
        journal.create(trial_spec(), STARTED)
    assert list(tmp_path.iterdir()) == []


def test_forget(journal):
    """A forgotten trial is gone, also when its deletion was cut in the middle."""
    half = journal.directory.with_name(".forgotten-old")
    half.mkdir()
    (half / "spec.json").write_text("{}")
    assert [found.trial_id for found in all_journals(half.parent)] == ["trial-1"]
    journal.forget()
    journal.forget()
    assert list(half.parent.iterdir()) == []


def test_oldest_first(tmp_path):
    """Trials are listed in the order of their starts; strangers' files are not trials."""
    for number, name in enumerate(("b", "a", "c")):
        made = Journal(tmp_path, name)
        made.create(trial_spec(name), STARTED)
        os.utime(made.directory / "spec.json", ns=(number, number))
    (tmp_path / "stray.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    assert [found.trial_id for found in all_journals(tmp_path)] == ["b", "a", "c"]


def test_last_reading(journal):
    """A cut trial's end is the time of the last reading that is whole."""
    assert journal.last_reading_ns() is None
    lines = b"".join(encode(reading(t)).encode() + b"\n" for t in (7, 8))
    (journal.directory / "readings.jsonl").write_bytes(lines + b'{"t_')
    assert journal.last_reading_ns() == 8
