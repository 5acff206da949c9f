"""What a board is and says of itself: fingerprint, readings, hello, lease, pushed files."""

from __future__ import annotations

from typing import Literal

from agent.wire.base import Wire


class Fingerprint(Wire, frozen=True):
    """Facts read live from a board; None where the board does not say."""

    board_model: str | None
    serial: str | None
    hostname: str
    machine: str
    userland_bits: int
    isa: Literal["aarch64", "aarch64-dotprod", "x86_64", "x86_64-vnni", "other"]
    cpu_model: str | None
    cpu_count: int
    cpu_features: tuple[str, ...]
    max_clock_hz: int | None
    governor: str | None
    memory_bytes: int
    swap_bytes: int
    os_name: str
    kernel: str
    libc: str | None
    python: str
    packages: dict[str, str]
    emulated: bool
    emulated_by: str | None
    boot_id: str | None


class Sources(Wire, frozen=True):
    """Where each kind of reading comes from on this board; None means it has no such source."""

    temp: str | None
    clock: str | None
    throttled: str | None
    power: str | None


class Reading(Wire, frozen=True):
    """One telemetry point. `t_ns` is the board's monotonic clock; a missing source is None."""

    t_ns: int
    temp_c: float | None
    clock_hz: int | None
    throttled_bits: int | None
    memory_available_bytes: int | None
    worker_rss_bytes: int | None
    power_w: float | None


class LeaseInfo(Wire, frozen=True):
    """Who holds a board, and for how long still unless renewed."""

    holder: str
    run_id: str
    expires_in_s: float


class HelloRequest(Wire, frozen=True):
    """The host's first words; `host` is its name, for the agent's log."""

    protocol: int
    host: str


class Hello(Wire, frozen=True):
    """The agent's answer: what it is, what the board is, and what lies on it."""

    protocol: int
    agent_version: str
    agent_digest: str
    pid: int
    monotonic_ns: int
    fingerprint: Fingerprint
    sources: Sources
    reading: Reading
    lease: LeaseInfo | None
    unacknowledged: tuple[str, ...]
    """Ids of trials whose journals are still on the board."""


class LeaseRequest(Wire, frozen=True):
    """Asks for the whole board for `ttl_s` seconds; each renewal grants as much again."""

    holder: str
    run_id: str
    ttl_s: float


class Has(Wire, frozen=True):
    """Which digests are complete, and how many bytes of the incomplete ones arrived."""

    complete: tuple[str, ...]
    partial_bytes: dict[str, int]


class Put(Wire, frozen=True):
    """How much of an artifact has arrived; complete means verified."""

    received_bytes: int
    complete: bool


class Check(Wire, frozen=True):
    """One question about a board: its state, what was found, and what to do about it.

    A source that is missing is `unknown`, and `fix` says what it would take; never `ok`.
    """

    name: str
    state: Literal["ok", "warn", "fail", "unknown"]
    found: str
    fix: str
    """Empty where there is nothing to do; a command to type stands in backticks."""


class Diagnosis(Wire, frozen=True):
    """Whether a board can be trusted now. While it is being made, `complete` is false."""

    complete: bool
    board_utc_ns: int
    """The board's wall clock as this answer was given; the host compares it with its own."""
    machine_id: str | None
    """Of its operating system, which a copied card shares."""
    checks: tuple[Check, ...]
