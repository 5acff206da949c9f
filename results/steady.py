"""Whether the latencies of a trial settled, and from which sample on.

MSER-5 (White, 1997; White and Robinson, 2010) drops as many leading batches of five samples
as minimises the squared standard error of the mean of the rest. Two changes, both chosen by
simulation (see tests/results/test_steady.py): a batch counts by its median, so one stray
slow inference is no change of level; and the same rule is applied from the end backwards,
so a change of level late in the trial (a throttled board) is noticed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_SAMPLES: Final = 128
"""Below this the rule's false alarms exceed about one in twenty."""
BATCH: Final = 5
LEVEL_TOLERANCE: Final = 0.05
"""A smaller change of the median between the end and the rest is not called a change."""
_KEPT_BATCHES: Final = 10
"""At least this many batches, and a tenth of all, are never dropped: their variance would
be an accident."""


def steady_from(latency_ns: NDArray[np.uint64]) -> tuple[int | None, str | None]:
    """Index of the first steady sample and None, or None and the reason why there is none."""
    if latency_ns.size < MIN_SAMPLES:
        return None, f"{latency_ns.size} samples; {MIN_SAMPLES} are needed to tell"
    whole = latency_ns.size // BATCH * BATCH
    batches = np.median(latency_ns[:whole].reshape(-1, BATCH), axis=1)
    start = _dropped(batches)
    if start > batches.size / 2:
        return None, f"still changing at sample {start * BATCH} of {latency_ns.size}"
    rest = batches[start:]
    tail = _dropped(rest[::-1])
    if tail:
        before, after = float(np.median(rest[:-tail])), float(np.median(rest[-tail:]))
        change = after / before - 1 if before else 0.0
        if abs(change) > LEVEL_TOLERANCE:
            at = (batches.size - tail) * BATCH
            return None, f"level changes by {change:+.1%} at sample {at} of {latency_ns.size}"
    return start * BATCH, None


def _dropped(batches: NDArray[np.float64]) -> int:
    """How many leading values to drop so that var(rest) / len(rest) is least."""
    backwards = batches[::-1] - np.median(batches)
    kept = np.arange(1, batches.size + 1)
    sums, squares = np.cumsum(backwards), np.cumsum(backwards**2)
    score = ((squares - sums**2 / kept) / kept**2)[::-1]  # score[d]: d values dropped
    last = batches.size - max(_KEPT_BATCHES, batches.size // 10)
    return int(np.argmin(score[: last + 1])) if last >= 0 else 0
