"""Errors of virtual boards; `orchestrator.errors` draws the whole tree."""

from __future__ import annotations

from agent.wire import BenchError


class LabError(BenchError):
    """A virtual board cannot do what was asked, or did not; the message says what it said."""

    exit_code = 70


class HostToolsMissing(LabError):
    """The host lacks what virtual boards are built and run with; the message installs it."""

    exit_code = 71


class ImageBuildFailed(LabError):
    """A virtual board's disk or packages could not be built; the message has the tool's words."""

    exit_code = 72


class VirtualBoardFailed(LabError):
    """An emulator did not start, ended early, or did not answer in time."""

    exit_code = 73
