"""Real agents with a real model, killed in the middle of a trial; a power cut is then imitated."""

import hashlib
import os
import signal
import time

import pytest
from support.agentkit import NS_PER_S, agent_process, trial_spec, wait_until
from support.onnxmodels import tiny_model

from agent import wire
from agent.journal import Journal, Started
from agent.processes import started_ticks
from agent.samplefile import LOG_NAME
from agent.samplelog import read_log

SUSTAINED = wire.Scenario(
    warmup_min_samples=2, warmup_min_duration_ns=0, min_samples=1, min_duration_ns=60 * NS_PER_S,
    max_duration_ns=60 * NS_PER_S, name="sustained",
)  # fmt: skip


@pytest.fixture
def cut(tmp_path):
    """A daemon that measured for a while until it and its worker were killed; and its trial."""
    model = tiny_model(tmp_path / "tiny.onnx").read_bytes()
    sha256 = hashlib.sha256(model).hexdigest()
    spec = trial_spec(sha256=sha256, size_bytes=len(model), scenario=SUSTAINED, deadline_s=120.0)
    with agent_process(tmp_path) as process:
        talk = process.talk()
        talk.ok(wire.Put, "put_chunk", sha256, 0, len(model), model)
        talk.ok(wire.LeaseInfo, "lease", wire.encode(wire.LeaseRequest("ann", "run-1", 60.0)))
        talk.ok(bool, "start", wire.encode(spec))
        journal = Journal(process.home.trials, spec.trial_id)
        log = journal.directory / LOG_NAME
        wait_until(lambda: len(read_log(log).latency_ns) > 500, 30.0)
        process.kill()
        end_worker(journal.started())
        talk.close()
        yield process, journal


def end_worker(started: Started) -> None:
    """End it as for certain as a power cut does."""
    assert started.worker_pid is not None
    os.kill(started.worker_pid, signal.SIGKILL)
    wait_until(lambda: started_ticks(started.worker_pid) != started.worker_ticks)


def recovered(process, trial_id):
    """What a new daemon says of the trial."""
    talk = process.talk()
    try:
        outcome = talk.ok(wire.Outcome, "outcome", trial_id)
        data = b""
        while piece := talk.raw("read", trial_id, "samples", len(data), wire.CHUNK_BYTES):
            data += piece
        return outcome, wire.decode_samples(data)
    finally:
        talk.close()


def test_agent_and_worker_killed(cut):
    """Everything up to the last inference is there, and placed in time."""
    process, journal = cut
    kept = journal.recorded(journal.spec()).counts
    outcome, samples = recovered(process, journal.trial_id)
    assert outcome.state == "interrupted"
    assert samples.counts[:2] == kept[:2]
    # It may be killed between the two numbers of a sample, which is then not one.
    assert kept[2] - samples.counts[2] in (0, 1)
    assert samples.counts[2] >= 500 - 3
    assert all(samples.latency_ns)
    assert all(samples.gap_ns[1:])
    first_ns = outcome.first_call_monotonic_ns
    assert first_ns is not None
    assert outcome.started_monotonic_ns < first_ns
    assert first_ns + sum(samples.latency_ns) + sum(samples.gap_ns) < time.monotonic_ns()


@pytest.mark.parametrize("from_byte", [0, 40, 4096, 65_536])
def test_power_cut(cut, from_byte):
    """With the samples file empty from any page on, what was forced out before is there."""
    process, journal = cut
    path = journal.directory / "samples.bin"
    forced = read_log(journal.directory / LOG_NAME)
    size = path.stat().st_size
    os.truncate(path, from_byte)
    os.truncate(path, size)
    outcome, samples = recovered(process, journal.trial_id)
    assert outcome.state == "interrupted"
    count = len(forced.latency_ns)
    assert sum(samples.counts) >= count
    assert samples.latency_ns[:count] == forced.latency_ns
    assert samples.gap_ns[1:count] == forced.gap_ns[1:]
    assert samples.counts[:2] == (1, 2)
    assert all(samples.latency_ns)
    assert outcome.first_call_monotonic_ns is not None
    assert not (journal.directory / LOG_NAME).exists()
