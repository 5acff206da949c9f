"""A board that is only arithmetic: for trying an experiment and for tests of everything above it.

It answers the protocol as a real agent does, in text and bytes, against an injected clock. Its
latencies are invented, its fingerprint says so (`board_model` is 'fake board', `emulated`), and
nothing it reports is ever shown as a measurement of silicon.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent import wire
from agent.wire import FailureKind
from orchestrator.boards.base import Argument, Pending, Session
from orchestrator.boards.welcome import REQUIRED
from orchestrator.clock import Clock

LATENCY_NS = 4_000_000
LOAD_NS = 50_000_000
_SHA_LENGTH = 64

Saboteur = Callable[[str], None]
"""Called with each method's name before it is served; may raise what a broken line raises."""


class _Refused(Exception):
    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.failure = wire.Failure(kind=kind, message=message)


@dataclass
class FakeTrial:
    """One started trial; where it stands follows from the clock alone."""

    spec: wire.TrialSpec
    started_ns: int
    failure: wire.Failure | None = None
    cancelled_ns: int | None = None
    parts: dict[str, bytes] | None = None
    """Its journal, made once it has ended: with hundreds of boards that is their main cost."""

    def sample_count(self) -> int:
        """Samples until both minimums hold, or the cap is reached."""
        scenario = self.spec.scenario
        by_time = -(-scenario.min_duration_ns // LATENCY_NS)
        by_cap = max(1, scenario.max_duration_ns // LATENCY_NS)
        return min(max(scenario.min_samples, by_time), by_cap)

    def ends_ns(self) -> int:
        """When it ends or ended, on the fake clock."""
        if self.cancelled_ns is not None:
            return self.cancelled_ns
        if self.failure is not None:
            return self.started_ns
        inferences = 1 + self.spec.scenario.warmup_min_samples + self.sample_count()
        return self.started_ns + LOAD_NS + inferences * LATENCY_NS

    def samples_done(self, now_ns: int) -> int:
        """Timed samples so far, warm-up excluded."""
        if self.failure is not None:
            return 0
        before = LOAD_NS + (1 + self.spec.scenario.warmup_min_samples) * LATENCY_NS
        until = min(now_ns, self.ends_ns()) - self.started_ns - before
        return max(0, min(self.sample_count(), until // LATENCY_NS))


@dataclass
class FakeAgent:
    """The agent's side of the protocol; survives its connections as a real one does."""

    clock: Clock
    isa: str = "aarch64-dotprod"
    temp_c: float | None = 45.0
    refuses: dict[str, wire.Failure] = field(default_factory=dict)
    """Failure of every trial of an artifact, by its sha256."""
    sabotage: Saboteur = lambda _method: None
    machine_id: str | None = None
    serial: str | None = None
    checks: tuple[wire.Check, ...] = (wire.Check("emulated", "warn", "by the fake board", ""),)
    files: dict[str, bytes] = field(default_factory=dict)
    partial: dict[str, bytearray] = field(default_factory=dict)
    trials_by_id: dict[str, FakeTrial] = field(default_factory=dict)
    lease_holder: wire.LeaseRequest | None = None
    lease_until_s: float = 0.0

    def now_ns(self) -> int:
        """The board's monotonic clock."""
        return round(self.clock.monotonic_s() * 1e9)

    def begin(self, method: str, *args: Argument) -> Pending:
        """Serve one call at once, as the rpyc service would."""
        answer = self._serve(method, *args)
        return lambda: answer

    def _serve(self, method: str, *args: Argument) -> str | bytes:
        self.sabotage(method)
        if method == "read":
            return self._read(*args)  # type: ignore[arg-type] # arguments arrive untyped
        try:
            return wire.encode(wire.Reply(ok=getattr(self, f"_{method}")(*args)))
        except _Refused as exc:
            return wire.encode(wire.Reply[bool](failure=exc.failure))
        except wire.WireError as exc:
            failure = wire.Failure(kind=FailureKind.BAD_REQUEST, message=str(exc))
            return wire.encode(wire.Reply[bool](failure=failure))

    def _hello(self, text: str) -> wire.Hello:
        request = wire.decode(text, wire.HelloRequest)
        if request.protocol != wire.PROTOCOL:
            raise _Refused(FailureKind.PROTOCOL, f"this agent speaks protocol {wire.PROTOCOL}")
        return wire.Hello(
            protocol=wire.PROTOCOL, agent_version="fake", agent_digest="0" * _SHA_LENGTH, pid=1,
            monotonic_ns=self.now_ns(), fingerprint=self._fingerprint(),
            sources=self._sources(), reading=self._telemetry(), lease=self._held(),
            unacknowledged=tuple(self.trials_by_id),
        )  # fmt: skip

    def _fingerprint(self) -> wire.Fingerprint:
        facts: dict[str, object] = {
            "board_model": "fake board", "serial": self.serial, "hostname": "fake",
            "machine": "fake", "userland_bits": 64, "isa": self.isa, "cpu_model": None,
            "cpu_count": 4, "cpu_features": [], "max_clock_hz": None, "governor": None,
            "memory_bytes": 1 << 30, "swap_bytes": 0, "os_name": "none", "kernel": "none",
            "libc": None, "python": "none",
            "packages": dict.fromkeys((*REQUIRED, *wire.RUNTIME_PACKAGES.values()), "fake"),
            "emulated": True, "emulated_by": "fake board", "boot_id": None,
        }  # fmt: skip
        return wire.decode(wire.encode(facts), wire.Fingerprint)

    def _sources(self) -> wire.Sources:
        temp = None if self.temp_c is None else "fake"
        return wire.Sources(temp=temp, clock=None, throttled=None, power=None)

    def _telemetry(self) -> wire.Reading:
        return self._reading(self.now_ns())

    def _reading(self, t_ns: int) -> wire.Reading:
        return wire.Reading(
            t_ns=t_ns, temp_c=self.temp_c, clock_hz=None, throttled_bits=None,
            memory_available_bytes=None, worker_rss_bytes=None, power_w=None,
        )  # fmt: skip

    def _has(self, text: str) -> wire.Has:
        asked = wire.decode(text, list[str])
        return wire.Has(
            complete=tuple(sha for sha in asked if sha in self.files),
            partial_bytes={sha: len(self.partial[sha]) for sha in asked if sha in self.partial},
        )

    def _put_chunk(self, sha256: str, offset: int, total_bytes: int, data: bytes) -> wire.Put:
        if len(sha256) != _SHA_LENGTH or set(sha256) - set("0123456789abcdef"):
            raise _Refused(FailureKind.BAD_REQUEST, f"{sha256!r} is not a sha256 in hexadecimal")
        if sha256 in self.files:
            return wire.Put(received_bytes=total_bytes, complete=True)
        part = self.partial.setdefault(sha256, bytearray())
        if offset != len(part):
            raise _Refused(FailureKind.BAD_REQUEST, f"offset {offset}, {len(part)} bytes are here")
        part += data
        if len(part) < total_bytes:
            return wire.Put(received_bytes=len(part), complete=False)
        whole = bytes(self.partial.pop(sha256))
        if hashlib.sha256(whole).hexdigest() != sha256:
            raise _Refused(FailureKind.DIGEST_MISMATCH, f"{sha256[:12]}: the bytes have another")
        self.files[sha256] = whole
        return wire.Put(received_bytes=len(whole), complete=True)

    def _held(self) -> wire.LeaseInfo | None:
        left_s = max(0.0, self.lease_until_s - self.clock.monotonic_s())
        if self.lease_holder is None or not (left_s or self._running()):
            return None
        held = self.lease_holder
        return wire.LeaseInfo(holder=held.holder, run_id=held.run_id, expires_in_s=left_s)

    def _lease(self, text: str) -> wire.LeaseInfo:
        request = wire.decode(text, wire.LeaseRequest)
        held = self._held()
        if held is not None and held.run_id != request.run_id:
            raise _Refused(
                FailureKind.LEASE_HELD,
                f"leased by {held.holder} for run {held.run_id}, {held.expires_in_s:.0f} s left",
            )
        self.lease_holder = request
        self.lease_until_s = self.clock.monotonic_s() + request.ttl_s
        return wire.LeaseInfo(
            holder=request.holder, run_id=request.run_id, expires_in_s=request.ttl_s
        )

    def _renew(self, run_id: str) -> wire.LeaseInfo:
        held = self._held()
        if self.lease_holder is None or held is None or held.run_id != run_id:
            raise _Refused(FailureKind.LEASE_LOST, f"run {run_id} does not hold this board")
        return self._lease(wire.encode(self.lease_holder))

    def _release(self, run_id: str) -> bool:
        held = self._held()
        if held is not None and held.run_id == run_id:
            self.lease_until_s = self.clock.monotonic_s()
            self.lease_holder = self.lease_holder if self._running() else None
        return True

    def _running(self) -> bool:
        """Whether a trial runs; the lease does not end under it."""
        return any(self.now_ns() < trial.ends_ns() for trial in self.trials_by_id.values())

    def _start(self, text: str) -> bool:
        spec = wire.decode(text, wire.TrialSpec)
        if spec.trial_id in self.trials_by_id:
            return True
        self._renew(spec.run_id)
        wanted = {spec.artifact.sha256, *(image.sha256 for image in spec.inputs.images)}
        missing = sorted(wanted - self.files.keys())
        if missing:
            raise _Refused(FailureKind.MISSING_ARTIFACT, f"missing: {', '.join(missing)}")
        if self._running():
            raise _Refused(FailureKind.BUSY, "another trial is running")
        failure = self.refuses.get(spec.artifact.sha256)
        self.trials_by_id[spec.trial_id] = FakeTrial(spec, self.now_ns(), failure)
        return True

    def _trial(self, trial_id: str) -> FakeTrial:
        if trial_id not in self.trials_by_id:
            raise _Refused(FailureKind.UNKNOWN_TRIAL, f"there is no trial {trial_id}")
        return self.trials_by_id[trial_id]

    def _poll(self, trial_id: str, cursor: int) -> wire.Poll:
        trial, now_ns = self._trial(trial_id), self.now_ns()
        ended = now_ns >= trial.ends_ns()
        done = trial.samples_done(now_ns)
        phase: wire.Phase = "ended" if ended else "sample" if done else "load"
        return wire.Poll(
            phase=phase, samples_done=done, images_done=0,
            recent_p50_ns=LATENCY_NS if done else None, elapsed_ns=now_ns - trial.started_ns,
            readings=() if cursor else (self._telemetry(),), next_cursor=1,
        )  # fmt: skip

    def _cancel(self, trial_id: str) -> bool:
        trial = self._trial(trial_id)
        if self.now_ns() < trial.ends_ns():
            trial.cancelled_ns = self.now_ns()
        return True

    def _parts(self, trial: FakeTrial) -> dict[str, bytes]:
        """The journal of a trial that has ended."""
        if trial.parts is None:
            trial.parts = self._made_parts(trial)
        return trial.parts

    def _made_parts(self, trial: FakeTrial) -> dict[str, bytes]:
        scenario, rng = trial.spec.scenario, random.Random(trial.spec.trial_id)  # noqa: S311
        warm = 0 if trial.failure else scenario.warmup_min_samples
        cold, timed = 0 if trial.failure else 1, trial.samples_done(trial.ends_ns())
        total = cold + warm + timed
        jitter_ns = array("H", rng.randbytes(2 * total))
        latency = array("Q", [LATENCY_NS + more_ns for more_ns in jitter_ns])
        head = wire.samples_header(total, (cold, warm, timed))
        gaps = array("Q", bytes(8 * total))
        parts = {
            "samples": head + latency.tobytes() + gaps.tobytes(),
            "readings": wire.encode(self._reading(trial.ends_ns())).encode() + b"\n",
        }
        if trial.spec.evaluation is not None and trial.failure is None:
            name, found = self._found(trial.spec.evaluation)
            parts[name] = "".join(f"{wire.encode(one)}\n" for one in found).encode()
        return parts

    def _found(self, wanted: wire.Evaluation) -> tuple[str, Sequence[wire.Wire]]:
        """Nothing, in each image."""
        ids = [image.image_id for image in wanted.images]
        if isinstance(wanted.head, wire.DetectHead):
            return "detections", [wire.ImageDetections(image_id, ()) for image_id in ids]
        height, width = wanted.prep.height, wanted.prep.width
        packed = zlib.compress(bytes(height * width))
        return "masks", [wire.ImageMask(image_id, height, width, packed) for image_id in ids]

    def _outcome(self, trial_id: str) -> wire.Outcome:
        trial = self._trial(trial_id)
        if self.now_ns() < trial.ends_ns():
            raise _Refused(FailureKind.BUSY, f"trial {trial_id} has not ended")
        cancelled = trial.cancelled_ns is not None
        state: wire.EndState = (
            "cancelled" if cancelled else "failed" if trial.failure else "finished"
        )
        evaluation, count = None, 0
        if trial.spec.evaluation is not None and state == "finished":
            count = len(trial.spec.evaluation.images)
            evaluation = wire.EvaluationOutcome(images_done=count, images_total=count, capped=False)
        parts = {
            name: wire.Part(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in self._parts(trial).items()
        }
        return wire.Outcome(
            trial_id=trial_id, state=state, failure=trial.failure,
            short=trial.sample_count() < trial.spec.scenario.min_samples,
            load_ns=LOAD_NS, peak_rss_bytes=None, runtime_version="fake", runtime_settings={},
            inputs_kind="images" if trial.spec.inputs.images else "synthetic",
            sources=self._sources(), evaluation=evaluation,
            started_monotonic_ns=trial.started_ns,
            first_call_monotonic_ns=None if trial.failure else trial.started_ns + LOAD_NS,
            ended_monotonic_ns=trial.ends_ns(),
            parts=parts,  # type: ignore[arg-type] # keys are the names of parts
        )  # fmt: skip

    def _read(self, trial_id: str, part: str, offset: int, length: int) -> bytes:
        trial = self.trials_by_id.get(trial_id)
        if trial is None or self.now_ns() < trial.ends_ns():
            return b""
        return self._parts(trial).get(part, b"")[offset : offset + length]

    def _ack(self, trial_id: str) -> bool:
        self.trials_by_id.pop(trial_id, None)
        return True

    def _doctor(self) -> wire.Diagnosis:
        return wire.Diagnosis(
            complete=True, board_utc_ns=round(self.clock.utc().timestamp() * 1e9),
            machine_id=self.machine_id, checks=self.checks,
        )  # fmt: skip

    def _trials(self) -> list[str]:
        return list(self.trials_by_id)

    def close(self) -> None:
        """A connection ended; the agent stays."""


@dataclass
class FakeBoard:
    """A board whose agent is arithmetic."""

    name: str
    agent: FakeAgent

    def connect(self) -> Session:
        """A session with the arithmetic."""
        self.agent.sabotage("connect")
        return Session(self.name, self.agent)
