"""The published figures, read from the file beside this one."""

from __future__ import annotations

import importlib.resources
from functools import cache
from typing import Literal

import msgspec
import yaml

AccuracyName = Literal["map50", "map50_95", "dice"]
What = Literal["size", "latency", "accuracy", "price"]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A variant by its recipe; `models` are the names that its model has at several scales."""

    models: tuple[str, ...]
    recipe: str


class PublishedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of a published table; None where the page gives no figure."""

    label: str
    models: tuple[str, ...]
    recipe: str
    parameters: int | None = None
    size_mb: float | None = None
    accuracy: float | None = None
    latency_ms: float | None = None

    @property
    def variant(self) -> Variant:
        """What stands in this row."""
        return Variant(self.models, self.recipe)


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published claim, as an open range that a figure of row `a` against row `b` has to lie in.

    Size and latency are ratios a / b, accuracy the difference a - b, price the difference of the
    accuracy that each loses for a MB saved. `b` None is the baseline.
    """

    text: str
    what: What
    a: str
    b: str | None = None
    low: float | None = None
    high: float | None = None


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published piece of work.

    `sustained` is the experiment that measures its networks without a pause, `whole` the scale at
    which they have their full size though no training, where there are such.
    """

    title: str
    source: str
    setup: str
    accuracy: AccuracyName
    baseline: Variant
    rows: tuple[PublishedRow, ...]
    findings: tuple[Finding, ...]
    sustained: str | None = None
    whole: str | None = None

    @property
    def baseline_row(self) -> PublishedRow:
        """The published figures of the baseline."""
        wanted = (self.baseline.models, self.baseline.recipe)
        return next(row for row in self.rows if (row.models, row.recipe) == wanted)

    def row(self, label: str) -> PublishedRow:
        """The row of a label; raises KeyError."""
        return {row.label: row for row in self.rows}[label]


@cache
def studies() -> dict[str, Study]:
    """Every study, by the name of its experiment."""
    text = (importlib.resources.files("orchestrator.studies") / "published.yaml").read_text()
    return msgspec.convert(yaml.safe_load(text), dict[str, Study])
