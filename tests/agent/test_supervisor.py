import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from array import array
from dataclasses import replace

import msgspec
import pytest
from support.agentkit import (
    GOOD_TRIAL,
    NS_PER_S,
    NsClock,
    ToldTelemetry,
    fake_worker,
    trial_spec,
    wait_until,
)

from agent import sampler
from agent.admission import JOURNAL_BYTES, WORKER_BYTES
from agent.artifacts import Artifacts
from agent.errors import Refused
from agent.journal import Journal, Started
from agent.lease import Lease
from agent.processes import oom_kills, started_ticks
from agent.runner import Surroundings
from agent.samplefile import LOG_NAME
from agent.samplelog import SampleLog
from agent.supervisor import Supervisor
from agent.wire import (
    EvaluationOutcome,
    FailureKind,
    LeaseRequest,
    Reading,
    decode,
    decode_samples,
)

MODEL = b"model"
SHA = hashlib.sha256(MODEL).hexdigest()


class Bench:
    """A supervisor with a leased board, a model, and workers that do what a test says."""

    def __init__(self, folder):
        self.folder = folder
        self.telemetry = ToldTelemetry()
        self.artifacts = Artifacts(folder / "artifacts")
        self.artifacts.put(SHA, 0, len(MODEL), MODEL)
        self.lease = Lease(folder / "board.lock")
        self.vmstat = folder / "vmstat"
        self.vmstat.write_text("nr_free_pages 1\noom_kill 3\n")
        self.free_bytes = 1 << 40
        self.journals_bytes = 1 << 40
        self.around = Surroundings(
            self.telemetry, fake_worker(folder, ""), sample_period_s=0.02, vmstat=self.vmstat
        )
        self.supervisor = self.restart()
        self.lease.take(LeaseRequest("ann", "run-1", 600.0))

    def restart(self):
        self.supervisor = Supervisor(
            self.folder / "trials", self.artifacts, self.lease, self.around,
            free=lambda _: self.free_bytes, journals_bytes=self.journals_bytes,
        )  # fmt: skip
        return self.supervisor

    def start(self, body, **wanted):
        fake_worker(self.folder, body)
        spec = self.spec(**wanted)
        self.supervisor.start(spec)
        return spec.trial_id

    def spec(self, **wanted):
        return trial_spec(**{"sha256": SHA, "size_bytes": len(MODEL), **wanted})

    def outcome(self, body, **wanted):
        trial_id = self.start(body, **wanted)
        wait_until(lambda: self.supervisor.poll(trial_id, 0).phase == "ended")
        return self.supervisor.outcome(trial_id)

    def samples(self, trial_id="trial-1"):
        return decode_samples(self.supervisor.read(trial_id, "samples", 0, 1 << 20))

    def readings(self, trial_id="trial-1"):
        lines = self.supervisor.read(trial_id, "readings", 0, 1 << 20).splitlines()
        return [decode(line, Reading) for line in lines]


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.supervisor.stop()
    made.lease.close()


def refused(call, *args):
    with pytest.raises(Refused) as caught:
        call(*args)
    return caught.value.failure


SAMPLING = """
phase("load"); loaded(); phase("cold"); phase("warmup"); phase("sample")
samples((1, 2, 0), [900, 50, 40, 10, 30, 20])
"""
LASTING = SAMPLING + "time.sleep(60)\n"


def test_finished_trial(bench):
    """A trial that goes well ends with all that its worker said and measured."""
    outcome = bench.outcome(GOOD_TRIAL)
    assert (outcome.state, outcome.failure, outcome.short) == ("finished", None, False)
    assert (outcome.load_ns, outcome.peak_rss_bytes, outcome.runtime_version) == (5, 7, "9.9")
    assert (outcome.runtime_settings, outcome.inputs_kind) == ({"a": "b"}, "synthetic")
    assert outcome.sources == bench.telemetry.sources
    assert outcome.ended_monotonic_ns > outcome.started_monotonic_ns
    samples = bench.samples()
    assert samples.counts == (1, 2, 5)
    assert list(samples.latency_ns) == [900, 50, 40, 10, 11, 12, 13, 14]
    for name, part in outcome.parts.items():
        data = bench.supervisor.read("trial-1", name, 0, 1 << 20)
        assert part.size_bytes == len(data)
        assert part.sha256 == hashlib.sha256(data).hexdigest()


def test_poll_while_it_runs(bench):
    """A poll shows phase, samples so far, their median and the readings since the last one."""
    trial_id = bench.start(LASTING)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).phase == "sample")
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).samples_done == 3)
    first = bench.supervisor.poll(trial_id, 0)
    assert (first.phase, first.recent_p50_ns, first.images_done) == ("sample", 20, 0)
    assert first.elapsed_ns > 0
    assert first.next_cursor == len(first.readings) > 0
    wait_until(lambda: bench.supervisor.poll(trial_id, first.next_cursor).readings != ())
    later = bench.supervisor.poll(trial_id, first.next_cursor)
    assert later.readings[0].t_ns > first.readings[-1].t_ns
    assert bench.supervisor.poll(trial_id, 10_000).readings == ()
    assert refused(bench.supervisor.outcome, trial_id).kind is FailureKind.BUSY
    assert refused(bench.supervisor.acknowledge, trial_id).kind is FailureKind.BUSY
    assert bench.supervisor.read(trial_id, "samples", 0, 100) == b""
    assert bench.supervisor.running() == trial_id


def test_images_done(bench):
    """A poll counts the images that have been evaluated, and the outcome keeps the count."""
    more = """
phase("evaluate")
open(f"{trial}/detections.jsonl", "w").write('{"image_id":"i0","detections":[]}\\n')
emit("evaluated", images_done=1, images_total=2, capped=False)
time.sleep(60)
"""
    trial_id = bench.start(SAMPLING + more)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).images_done == 1)
    bench.supervisor.cancel(trial_id)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).phase == "ended")
    assert bench.supervisor.poll(trial_id, 0).images_done == 1
    evaluation = bench.supervisor.outcome(trial_id).evaluation
    assert evaluation is not None
    assert (evaluation.images_done, evaluation.images_total) == (1, 2)


def test_ended_trial_still_answers(bench):
    """An ended trial answers polls and reads until it is acknowledged, and not after that."""
    bench.outcome(GOOD_TRIAL)
    poll = bench.supervisor.poll("trial-1", 3)
    assert (poll.phase, poll.samples_done, poll.recent_p50_ns) == ("ended", 5, 12)
    assert (poll.readings, poll.next_cursor) == ((), 3)
    assert bench.supervisor.trials() == ["trial-1"]
    bench.supervisor.cancel("trial-1")
    bench.supervisor.acknowledge("trial-1")
    bench.supervisor.acknowledge("trial-1")
    assert bench.supervisor.trials() == []
    for call in (bench.supervisor.outcome, bench.supervisor.cancel):
        assert refused(call, "trial-1").kind is FailureKind.UNKNOWN_TRIAL
    assert refused(bench.supervisor.poll, "trial-1", 0).kind is FailureKind.UNKNOWN_TRIAL
    assert bench.supervisor.read("trial-1", "samples", 0, 10) == b""


def test_start_twice(bench):
    """Starting a trial again does nothing, while it runs, after its end and after a restart."""
    marker = f"open({str(bench.folder / 'starts')!r}, 'a').write('x')\n"
    bench.outcome(marker + GOOD_TRIAL)
    bench.supervisor.start(bench.spec())
    bench.restart().start(bench.spec())
    trial_id = bench.start(marker + LASTING, trial_id="trial-2")
    bench.supervisor.start(bench.spec(trial_id="trial-2"))
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).phase == "sample")
    assert (bench.folder / "starts").read_text() == "xx"


def test_same_id_other_trial(bench):
    """Another trial under the id of one that is here is refused instead of being lost."""
    bench.outcome(GOOD_TRIAL)
    failure = refused(bench.supervisor.start, bench.spec(deadline_s=3))
    assert failure.kind is FailureKind.BAD_REQUEST


def test_one_at_a_time(bench):
    """A second trial is refused while one runs, naming it, and accepted afterwards."""
    bench.start(LASTING)
    failure = refused(bench.supervisor.start, bench.spec(trial_id="trial-2"))
    assert failure.kind is FailureKind.BUSY
    assert "trial-1" in failure.message
    bench.supervisor.cancel("trial-1")
    wait_until(lambda: bench.supervisor.poll("trial-1", 0).phase == "ended")
    assert bench.outcome(GOOD_TRIAL, trial_id="trial-2").state == "finished"


def test_lease_is_needed(bench):
    """Only the run that holds the board starts trials on it."""
    failure = refused(bench.supervisor.start, bench.spec(run_id="run-2"))
    assert failure.kind is FailureKind.LEASE_LOST
    assert bench.supervisor.trials() == []


def test_missing_artifacts(bench):
    """What is not on the board is listed by digest: the model and every image, each once."""
    images = ["1" * 64, "2" * 64, SHA, "1" * 64]
    failure = refused(bench.supervisor.start, bench.spec(sha256="0" * 64, images=images))
    assert failure.kind is FailureKind.MISSING_ARTIFACT
    for digest in ("0" * 64, "1" * 64, "2" * 64):
        assert failure.message.count(digest) == 1
    assert SHA not in failure.message


def test_long_list_of_missing(bench):
    """A long list is cut and counted."""
    images = [f"{number:064x}" for number in range(50)]
    failure = refused(bench.supervisor.start, bench.spec(images=images))
    assert "and 30 more" in failure.message


def test_too_large(bench):
    """A model that would not fit into the free memory is refused, with both figures."""
    needed = 2 * len(MODEL) + WORKER_BYTES
    bench.telemetry.available_bytes = needed - 1
    failure = refused(bench.supervisor.start, bench.spec())
    assert failure.kind is FailureKind.TOO_LARGE
    assert str(needed) in failure.message
    assert str(needed - 1) in failure.message
    bench.telemetry.available_bytes = needed
    assert bench.outcome(GOOD_TRIAL).state == "finished"


def test_unknown_memory(bench):
    """A board that does not say what is free is not refused for it."""
    bench.telemetry.available_bytes = None
    assert bench.outcome(GOOD_TRIAL).state == "finished"


def test_full_disk(bench):
    """A trial whose journal might not fit is refused before it starts, with both figures."""
    bench.free_bytes = JOURNAL_BYTES - 1
    failure = refused(bench.supervisor.start, bench.spec())
    assert failure.kind is FailureKind.DISK_FULL
    assert str(JOURNAL_BYTES) in failure.message
    assert str(JOURNAL_BYTES - 1) in failure.message
    assert bench.supervisor.trials() == []


def test_disk_fills_up_at_the_start(bench, monkeypatch):
    """A journal that cannot be begun leaves the board free."""

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert refused(bench.supervisor.start, bench.spec()).kind is FailureKind.DISK_FULL
    monkeypatch.undo()
    assert bench.supervisor.running() is None
    bench.lease.release("run-1")
    assert not bench.lease.held()


@pytest.mark.parametrize(
    "wrong",
    [{"deadline_s": 0}, {"deadline_s": 1e9}, {"sha256": "../x"}, {"size_bytes": 4},
     {"trial_id": "../x"}, {"images": ["nope"]}],
)  # fmt: skip
def test_bad_specs(bench, wrong):
    """A specification that contradicts itself or the file is refused before anything starts."""
    assert refused(bench.supervisor.start, bench.spec(**wrong)).kind is FailureKind.BAD_REQUEST
    assert list((bench.folder / "trials").iterdir()) == []


def test_deadline(bench):
    """A trial that takes too long is ended, with the figure, and its samples are kept."""
    clock = NsClock()
    bench.around = replace(bench.around, clock=clock)
    bench.restart()
    trial_id = bench.start(LASTING, deadline_s=20)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).samples_done == 3)
    clock.pass_s(19)
    assert bench.supervisor.poll(trial_id, 0).elapsed_ns == 19 * NS_PER_S
    clock.pass_s(1)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).phase == "ended")
    outcome = bench.supervisor.outcome(trial_id)
    assert outcome.state == "failed"
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.DEADLINE
    assert "20.0 s" in outcome.failure.message
    assert bench.samples().counts == (1, 2, 3)


def test_cancel(bench):
    """A cancelled trial ends soon and keeps what it measured."""
    trial_id = bench.start(LASTING)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).samples_done == 3)
    began = time.monotonic()
    bench.supervisor.cancel(trial_id)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).phase == "ended")
    assert time.monotonic() - began < 2
    outcome = bench.supervisor.outcome(trial_id)
    assert outcome.state == "cancelled"
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.CANCELLED
    assert bench.samples().counts == (1, 2, 3)


@pytest.mark.slow
def test_stubborn_worker(bench):
    """A worker that ignores the polite signal is killed, and so is what it started."""
    body = """
import subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open("child", "w").write(str(child.pid))
phase("load")
time.sleep(60)
"""
    trial_id = bench.start(body)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).phase == "load")
    child = int((bench.folder / "trials" / trial_id / "child").read_text())
    bench.supervisor.cancel(trial_id)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).phase == "ended")
    assert bench.supervisor.outcome(trial_id).state == "cancelled"
    wait_until(lambda: started_ticks(child) is None)


@pytest.mark.parametrize(
    ("death", "kind", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", FailureKind.WORKER_KILLED, "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGILL)", FailureKind.WORKER_KILLED, "illegal instruction"),
        ("os.kill(os.getpid(), signal.SIGKILL)", FailureKind.WORKER_KILLED, "SIGKILL"),
        ("sys.exit(3)", FailureKind.INTERNAL, "exit code 3"),
        ("sys.exit(0)", FailureKind.INTERNAL, "exit code 0"),
    ],
)
def test_worker_dies(bench, death, kind, words):
    """A dead worker's signal or code is named with its last words, and its samples are kept."""
    dying = f"print('oh\\x1b[31m no', file=sys.stderr, flush=True)\n{death}\n"
    outcome = bench.outcome(SAMPLING + dying)
    assert outcome.state == "failed"
    assert outcome.failure is not None
    assert outcome.failure.kind is kind
    assert words in outcome.failure.message
    assert "oh?[31m no" in outcome.failure.message
    assert bench.samples().counts == (1, 2, 3)
    assert len(bench.readings()) >= 2


def test_out_of_memory(bench):
    """A worker that the kernel killed for want of memory is told apart from any other kill."""
    killed = f"""
open({str(bench.vmstat)!r}, "w").write("oom_kill 4\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""
    bench.telemetry.available_bytes = WORKER_BYTES + 12345
    outcome = bench.outcome(SAMPLING + killed)
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.OUT_OF_MEMORY
    assert str(WORKER_BYTES + 12345) in outcome.failure.message
    assert bench.samples().counts == (1, 2, 3)


@pytest.mark.parametrize("text", ["", "oom_kill x\n", "other 5\n"])
def test_kernel_does_not_say(tmp_path, text):
    """A kernel that does not count such kills counts none."""
    (tmp_path / "vmstat").write_text(text)
    assert oom_kills(tmp_path / "vmstat") == 0
    assert oom_kills(tmp_path / "absent") == 0


def test_worker_fails_in_words(bench):
    """A failure that the worker reports is passed on as it is."""
    said = 'emit("failed", failure={"kind": "model_load", "message": "no such operator"})\n'
    outcome = bench.outcome('phase("load")\n' + said)
    assert outcome.state == "failed"
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.MODEL_LOAD
    assert outcome.failure.message == "no such operator"
    assert "samples" not in outcome.parts


def test_crash_after_the_end(bench):
    """A library that crashes at the exit of a complete trial takes nothing away."""
    outcome = bench.outcome(GOOD_TRIAL + "os.kill(os.getpid(), signal.SIGSEGV)\n")
    assert (outcome.state, outcome.failure) == ("finished", None)


def test_worker_that_cannot_be_run(bench):
    """A worker that cannot even be started fails the trial and leaves the board usable."""
    bench.around = replace(bench.around, argv=lambda directory: [str(directory / "absent")])
    bench.restart()
    outcome = bench.outcome("")
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.INTERNAL
    assert bench.supervisor.running() is None


def test_noise_on_stdout(bench):
    """What is no event does no harm: noise, a half line, an enormous line."""
    noise = "print('noise'); print('{\"event\":'); print('x' * 3_000_000, flush=True)\n"
    assert bench.outcome(noise + GOOD_TRIAL).state == "finished"


def test_child_that_keeps_the_output_open(bench):
    """A worker is seen to be dead although something it started holds its output open."""
    body = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
sys.exit(5)
"""
    outcome = bench.outcome(SAMPLING + body)
    assert outcome.failure is not None
    assert "exit code 5" in outcome.failure.message


def test_telemetry_beside_the_trial(bench):
    """Readings are taken from before the worker's first word to its end, about its process."""
    bench.outcome(SAMPLING + "time.sleep(0.3)\n" + GOOD_TRIAL)
    readings = bench.readings()
    assert len(readings) >= 5
    assert [r.t_ns for r in readings] == sorted(r.t_ns for r in readings)
    assert any(pid is not None for pid in bench.telemetry.pids)
    assert bench.telemetry.pids[-1] is None


def test_lease_does_not_end_under_a_trial(bench, tmp_path):
    """A trial runs to its end although nobody renews the lease, then the board is free."""
    clock = NsClock()
    bench.lease.close()
    bench.lease = Lease(bench.folder / "board.lock", clock)
    bench.restart()
    bench.lease.take(LeaseRequest("ann", "run-1", 5.0))
    trial_id = bench.start(LASTING)
    clock.pass_s(100)
    assert bench.lease.held()
    bench.supervisor._current.cut("cancelled")
    wait_until(lambda: bench.supervisor.running() is None)
    assert not bench.lease.held()
    assert bench.supervisor.outcome(trial_id).state == "cancelled"


def test_polls_renew_the_lease(bench):
    """Asking after a trial is as good as renewing its run's lease."""
    clock = NsClock()
    bench.lease.close()
    bench.lease = Lease(bench.folder / "board.lock", clock)
    bench.restart()
    bench.lease.take(LeaseRequest("ann", "run-1", 5.0))
    trial_id = bench.start(LASTING)
    for _ in range(3):
        clock.pass_s(4)
        bench.supervisor.poll(trial_id, 0)
    bench.supervisor._current.cut("cancelled")
    wait_until(lambda: bench.supervisor.running() is None)
    assert bench.lease.held()


def test_agent_is_stopped(bench):
    """A stopped agent closes its trial as interrupted, with what was measured."""
    trial_id = bench.start(LASTING)
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).samples_done == 3)
    bench.supervisor.stop()
    outcome = bench.supervisor.outcome(trial_id)
    assert outcome.state == "interrupted"
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.INTERRUPTED
    assert bench.samples().counts == (1, 2, 3)


def words(*values):
    return array("Q", values).tobytes()


def cut_journal(bench, body):
    """What a killed agent leaves: everything but the outcome."""
    bench.outcome(body)
    journal = Journal(bench.folder / "trials", "trial-1")
    (journal.directory / "outcome.json").unlink()
    return journal


def test_recovery(bench):
    """A trial that was cut with its agent is closed at the next start, samples and all."""
    journal = cut_journal(bench, SAMPLING + "sys.exit(1)\n")
    supervisor = bench.restart()
    assert supervisor.recover() == ["trial-1"]
    assert supervisor.recover() == []
    outcome = supervisor.outcome("trial-1")
    assert outcome.state == "interrupted"
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.INTERRUPTED
    assert (outcome.load_ns, outcome.runtime_version) == (5, "9.9")
    assert outcome.sources == bench.telemetry.sources
    assert outcome.ended_monotonic_ns == bench.readings()[-1].t_ns
    assert bench.samples().counts == (1, 2, 3)
    assert supervisor.poll("trial-1", 0).phase == "ended"
    supervisor.start(journal.spec())
    assert supervisor.running() is None


def test_recovery_of_a_complete_trial(bench):
    """A trial whose worker had finished is finished, although its agent died before saying so."""
    cut_journal(bench, GOOD_TRIAL)
    bench.restart().recover()
    assert bench.supervisor.outcome("trial-1").state == "finished"


def test_recovery_of_torn_files(bench):
    """Every file but the specification may be torn or gone, and the trial is still closed."""
    journal = cut_journal(bench, SAMPLING + "sys.exit(1)\n")
    for name in ("started.json", "events.jsonl", "readings.jsonl"):
        path = journal.directory / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (journal.directory / "stderr.txt").unlink()
    bench.restart().recover()
    assert bench.supervisor.outcome("trial-1").state == "interrupted"
    assert bench.samples().counts == (1, 2, 3)


def test_recovery_after_a_power_cut(bench):
    """Samples that had been forced to the disk are kept, whatever became of the samples file."""
    journal = cut_journal(bench, SAMPLING + "sys.exit(1)\n")
    log = SampleLog(journal.directory / LOG_NAME)
    log.append((1, 2, 0), words(900, 50, 40, 10), words(1, 1, 1, 1))
    log.close()
    (journal.directory / "samples.bin").write_bytes(bytes(40 + 16 * 100))
    bench.restart().recover()
    outcome = bench.supervisor.outcome("trial-1")
    assert (outcome.state, outcome.parts["samples"].size_bytes) == ("interrupted", 40 + 4 * 16)
    assert bench.samples().counts == (1, 2, 1)
    assert outcome.first_call_monotonic_ns is not None
    assert bench.samples().latency_ns.tolist() == [900, 50, 40, 10]


def test_recovery_of_a_complete_trial_that_is_not_whole(bench):
    """A trial whose worker had ended well is interrupted where the power took its last samples."""
    journal = cut_journal(bench, GOOD_TRIAL)
    path = journal.directory / "samples.bin"
    path.write_bytes(path.read_bytes()[: 40 + 5 * 8] + bytes(3 * 8 + 8 * 8))
    bench.restart().recover()
    outcome = bench.supervisor.outcome("trial-1")
    assert outcome.state == "interrupted"
    assert outcome.failure is not None
    assert "0 of 8 timed calls" not in outcome.failure.message
    assert "of 8 timed calls" in outcome.failure.message


def test_recovery_of_lost_detections(bench):
    """Images whose results the power took are not counted, and the trial is not complete."""
    images = """
phase("load"); loaded(); phase("cold"); phase("warmup"); phase("sample")
samples((1, 2, 5), [900, 50, 40, 10, 11, 12, 13, 14])
phase("evaluate")
lines = ['{"image_id":"i0","detections":[]}\\n', '{"image_id":"i1","detections":[]}\\n']
open(f"{trial}/detections.jsonl", "w").write("".join(lines))
emit("evaluated", images_done=2, images_total=2, capped=False)
ended(8)
"""
    journal = cut_journal(bench, images)
    path = journal.directory / "detections.jsonl"
    path.write_bytes(path.read_bytes()[:-5] + bytes(5))
    bench.restart().recover()
    outcome = bench.supervisor.outcome("trial-1")
    assert outcome.state == "interrupted"
    assert outcome.evaluation == EvaluationOutcome(1, 2, capped=True)
    assert bench.samples().counts == (1, 2, 5)


def test_recovery_without_a_specification(bench):
    """A directory whose specification is unreadable does not keep the agent from starting."""
    journal = cut_journal(bench, GOOD_TRIAL)
    (journal.directory / "spec.json").write_text("{")
    assert bench.restart().recover() == []
    assert refused(bench.supervisor.outcome, "trial-1").kind is FailureKind.INTERNAL


def test_torn_outcome_is_written_again(bench):
    """An outcome that the power cut tore is made again from the parts."""
    bench.outcome(GOOD_TRIAL)
    path = bench.folder / "trials" / "trial-1" / "outcome.json"
    path.write_bytes(path.read_bytes()[:40])
    assert bench.restart().outcome("trial-1").state == "finished"
    assert json.loads(path.read_text())["state"] == "finished"


def test_orphaned_worker_is_ended(bench):
    """A worker that outlived its agent is killed before anything else is measured."""
    journal = Journal(bench.folder / "trials", "trial-1")
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    try:
        sources = bench.telemetry.sources
        started = Started(1, sources, orphan.pid, started_ticks(orphan.pid))
        journal.create(bench.spec(), started)
        stranger = Journal(bench.folder / "trials", "trial-2")
        stranger.create(bench.spec(trial_id="trial-2"), Started(1, sources, other.pid, 12))
        assert sorted(bench.supervisor.recover()) == ["trial-1", "trial-2"]
        assert orphan.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (orphan, other):
            process.kill()
            process.wait()


def test_journal_cannot_be_closed_at_first(bench, monkeypatch):
    """A trial whose end could not be written is not busy for ever: asking again closes it."""
    real = Journal.finalise
    calls = []

    def fail_once(self, *args):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        return real(self, *args)

    monkeypatch.setattr(Journal, "finalise", fail_once)
    assert bench.outcome(GOOD_TRIAL).state == "finished"
    assert len(calls) == 2


def test_full_disk_under_a_trial(bench, monkeypatch):
    """Readings that cannot be written are kept and written when there is room again."""
    writes = []
    real = sampler.Path.open

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _data):
            raise OSError(28, "No space left on device")

    def picky(self, *args, **kwargs):
        if self.name == "readings.jsonl" and args[:1] == ("ab",):
            writes.append(1)
            if len(writes) < 4:
                return Full()
        return real(self, *args, **kwargs)

    monkeypatch.setattr(sampler.Path, "open", picky)
    bench.outcome(SAMPLING + "time.sleep(0.3)\n" + GOOD_TRIAL)
    monkeypatch.undo()
    assert len(writes) > 4
    assert len(bench.readings()) == len(writes)


def test_polls_are_cheap(bench):
    """A poll of a running trial touches a few pages, not the whole file."""
    body = SAMPLING.replace("capacity=100", "") + "time.sleep(60)\n"
    trial_id = bench.start(body.replace("30, 20])", "30, 20], capacity=1_000_000)"))
    wait_until(lambda: bench.supervisor.poll(trial_id, 0).samples_done == 3)
    began = time.process_time()
    for _ in range(100):
        bench.supervisor.poll(trial_id, 0)
    assert (time.process_time() - began) / 100 < 0.005


def test_spec_and_messages_round_trip(bench):
    """What the worker is given is exactly what the host asked for."""
    bench.outcome(GOOD_TRIAL)
    text = (bench.folder / "trials" / "trial-1" / "spec.json").read_bytes()
    assert msgspec.json.decode(text, type=type(bench.spec())) == bench.spec()
    assert bench.spec().deadline_ns == 20 * NS_PER_S


def test_too_many_journals(bench):
    """Journals nobody fetched are kept, and no trial is begun beside more than a limit of them."""
    first = bench.start(GOOD_TRIAL)
    wait_until(lambda: bench.supervisor.poll(first, 0).phase == "ended")
    bench.journals_bytes = 1000
    bench.restart()
    failure = refused(bench.supervisor.start, bench.spec(trial_id="second"))
    assert failure.kind is FailureKind.DISK_FULL
    assert "at most 1000 are kept" in failure.message
    assert "`orchestrator resume run-1`" in failure.message
    assert bench.supervisor.trials() == [first]
    bench.supervisor.start(bench.spec(trial_id=first))  # resuming asks for it again
    assert bench.supervisor.outcome(first).state == "finished"
    bench.supervisor.acknowledge(first)
    bench.supervisor.start(bench.spec(trial_id="second"))


def test_a_trials_files_are_kept(bench):
    """A running trial's model is not deleted for the sake of another file."""
    bench.artifacts = Artifacts(
        bench.folder / "artifacts", limit_bytes=8, holder=bench.lease.run_id
    )
    bench.restart()
    bench.start(LASTING)
    assert refused(bench.artifacts.put, "0" * 64, 0, 8, b"x").kind is FailureKind.DISK_FULL
    assert bench.artifacts.has([SHA]).complete == (SHA,)


def test_a_damaged_model_is_deleted(bench):
    """After a trial that found its model damaged the board is ready for a good copy of it."""
    (bench.artifacts.directory / SHA).write_bytes(b"mOdel")
    body = """phase("load")
emit("failed", failure={"kind": "digest_mismatch", "message": "other bytes"})"""
    assert bench.outcome(body).failure.kind is FailureKind.DIGEST_MISMATCH
    assert bench.artifacts.has([SHA]).complete == ()
    assert bench.artifacts.put(SHA, 0, len(MODEL), MODEL).complete
