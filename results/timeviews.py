"""The views that place each sample in time, beside the readings of its board.

They read samples, so ask them for one trial (`WHERE trial_no = ...`) of a large database: the
condition reaches the tables.
"""

from __future__ import annotations

from typing import Final

from results.view import View, ViewColumn, ms, plain, seconds

# Call i starts at: first call + latencies of calls 0..i-1 + gaps of calls 0..i (gap 0 is 0).
_START = """t.first_call_monotonic_ns + CAST(SUM(s.latency_ns + s.gap_ns) OVER (
    PARTITION BY s.trial_no ORDER BY s.seq ROWS UNBOUNDED PRECEDING) AS BIGINT) - s.latency_ns"""

V_SAMPLE_TIMES: Final = View(
    name="v_sample_times",
    comment=(
        "One row a timed inference, with its start on the board's monotonic clock, which is the "
        "clock of `readings.t_ns`."
    ),
    columns=(
        plain("s", "trial_no", "the trial"),
        plain("s", "seq", "place in the trial, from 0"),
        plain("s", "phase", "0 cold (the first inference), 1 warm-up, 2 sample"),
        ViewColumn("t_ns", _START, "start of the inference; NULL: the board did not keep it"),
        plain("s", "latency_ns", "time of the inference"),
    ),
    from_sql="""\
FROM samples s
JOIN trials t ON t.trial_no = s.trial_no""",
)

# merged: samples and readings of a trial in the order of time.
# placed: at each sample, how many readings came before it. Readings are numbered from 0, so that
#         number names the next reading, and one less the last.
_NEAREST_WITH = """\
WITH merged AS (
  SELECT trial_no, t_ns, seq, phase, latency_ns, 0 AS is_reading FROM v_sample_times
  WHERE t_ns IS NOT NULL
  UNION ALL
  SELECT trial_no, t_ns, seq, NULL, NULL, 1 FROM readings
), placed AS (
  SELECT trial_no, t_ns, seq, phase, latency_ns, is_reading, CAST(SUM(is_reading) OVER (
    PARTITION BY trial_no ORDER BY t_ns, is_reading DESC, seq ROWS UNBOUNDED PRECEDING
  ) AS BIGINT) AS readings_before
  FROM merged
)
"""

_NEAREST = """CASE WHEN before.t_ns IS NULL THEN after.{0}
    WHEN after.t_ns IS NULL OR p.t_ns - before.t_ns <= after.t_ns - p.t_ns THEN before.{0}
    ELSE after.{0} END"""


def _nearest(name: str, meaning: str) -> ViewColumn:
    return ViewColumn(name, _NEAREST.format(name), meaning)


V_LATENCY_BY_TEMP: Final = View(
    name="v_latency_by_temp",
    comment=(
        "One row a timed inference that has a place in time, beside the reading nearest to its "
        "start: latency against temperature and clock rate, as in a sustained run."
    ),
    with_sql=_NEAREST_WITH,
    columns=(
        plain("t", "run_id", "the run"),
        plain("t", "board", "name of the board"),
        plain("f", "emulated", "1: no real board, its speed means nothing"),
        plain("t", "model", "model"),
        plain("t", "variant", "variant; `fp32` is the original"),
        plain("t", "scenario", "how inferences were issued"),
        plain("p", "trial_no", "the trial"),
        plain("p", "seq", "place in the trial, from 0"),
        plain("p", "phase", "0 cold (the first inference), 1 warm-up, 2 sample"),
        ViewColumn(
            "at_s",
            seconds("(p.t_ns - t.first_call_monotonic_ns)"),
            "seconds from the trial's first inference",
        ),
        ViewColumn("latency_ms", ms("p.latency_ns"), "time of the inference, ms"),
        _nearest("temp_c", "temperature then, degrees C; NULL: no sensor"),
        _nearest("clock_hz", "clock rate of the cores then; NULL: no source"),
        _nearest("throttled_bits", "the firmware's throttle word then, as read; NULL: no source"),
        ViewColumn(
            "reading_s",
            seconds(f"(({_NEAREST.format('t_ns')}) - t.first_call_monotonic_ns)"),
            "when that reading was taken, as `at_s`; NULL: there is none",
        ),
    ),
    from_sql="""\
FROM placed p
JOIN trials t ON t.trial_no = p.trial_no
JOIN boards b ON b.board_no = t.board_no
JOIN fingerprints f ON f.fingerprint_sha256 = b.fingerprint_sha256
LEFT JOIN readings before ON before.trial_no = p.trial_no AND before.seq = p.readings_before - 1
LEFT JOIN readings after ON after.trial_no = p.trial_no AND after.seq = p.readings_before
WHERE p.is_reading = 0""",
)
