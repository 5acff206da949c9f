"""What a board is and says of itself: fingerprint, readings, hello, lease, pushed files."""

from __future__ import annotations

from typing import Literal

from agent.wire.base import Celsius, Count, Moment, Text, Watts, Wire


class Fingerprint(Wire, frozen=True):
    """Facts read live from a board; None where the board does not say."""

    board_model: Text | None
    serial: Text | None
    hostname: Text
    machine: Text
    userland_bits: Count
    isa: Literal["aarch64", "aarch64-dotprod", "x86_64", "x86_64-vnni", "other"]
    cpu_model: Text | None
    cpu_count: Count
    cpu_features: tuple[Text, ...]
    max_clock_hz: Count | None
    governor: Text | None
    memory_bytes: Count
    swap_bytes: Count
    os_name: Text
    kernel: Text
    libc: Text | None
    python: Text
    packages: dict[Text, Text]
    emulated: bool
    emulated_by: Text | None
    boot_id: Text | None


class Sources(Wire, frozen=True):
    """Where each kind of reading comes from on this board; None means it has no such source."""

    temp: Text | None
    clock: Text | None
    throttled: Text | None
    power: Text | None


class Reading(Wire, frozen=True):
    """One telemetry point. `t_ns` is the board's monotonic clock; a missing source is None."""

    t_ns: Count
    temp_c: Celsius | None
    clock_hz: Count | None
    throttled_bits: Count | None
    memory_available_bytes: Count | None
    worker_rss_bytes: Count | None
    power_w: Watts | None


class LeaseInfo(Wire, frozen=True):
    """Who holds a board, and for how long still unless renewed."""

    holder: Text
    run_id: Text
    expires_in_s: float


class HelloRequest(Wire, frozen=True):
    """The host's first words; `host` is its name, for the agent's log."""

    protocol: int
    host: str


class Hello(Wire, frozen=True):
    """The agent's answer: what it is, what the board is, and what lies on it."""

    protocol: Count
    agent_version: Text
    agent_digest: Text
    pid: Count
    monotonic_ns: Count
    fingerprint: Fingerprint
    sources: Sources
    reading: Reading
    lease: LeaseInfo | None
    unacknowledged: tuple[Text, ...]
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

    name: Text
    state: Literal["ok", "warn", "fail", "unknown"]
    found: Text
    fix: Text
    """Empty where there is nothing to do; a command to type stands in backticks."""


class Diagnosis(Wire, frozen=True):
    """Whether a board can be trusted now. While it is being made, `complete` is false."""

    complete: bool
    board_utc_ns: Moment
    """The board's wall clock as this answer was given; the host compares it with its own."""
    machine_id: Text | None
    """Of its operating system, which a copied card shares."""
    checks: tuple[Check, ...]
