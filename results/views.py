"""The views that people query by hand, in SQL that SQLite and PostgreSQL both take.

Each column has its expression and its meaning side by side, so `docs/schema.md` cannot
disagree with the SQL. Milliseconds here, nanoseconds in the tables. The views here read
summaries, never samples: they stay fast over millions of samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from results.imageviews import V_IMAGE_SCORES
from results.timeviews import V_LATENCY_BY_TEMP, V_SAMPLE_TIMES
from results.view import View, ViewColumn
from results.view import ms as _ms
from results.view import plain as _plain

# Of an artifact that the host scored several times in a run, the figure over most images.
_EVALUATION_JOIN = """\
LEFT JOIN evaluations e ON e.evaluation_no = COALESCE(
    (SELECT own.evaluation_no FROM evaluations own WHERE own.trial_no = t.trial_no),
    (SELECT host.evaluation_no FROM evaluations host
     WHERE host.artifact_sha256 = t.artifact_sha256 AND host.run_id = t.run_id
       AND host.trial_no IS NULL
     ORDER BY host.images DESC, host.evaluation_no DESC LIMIT 1))"""

_EVALUATION_COLUMNS = (
    ViewColumn("map50", "e.map50", "mAP at IoU 0.5, 0..1; NULL: no figure"),
    ViewColumn("map50_95", "e.map50_95", "mAP over IoU 0.5 to 0.95, 0..1; NULL: no figure"),
    ViewColumn("dice", "e.dice", "mean Dice over the images, 0..1; NULL: no segmentation"),
    ViewColumn("iou", "e.iou", "mean IoU over the classes, 0..1; NULL: no segmentation"),
    ViewColumn("eval_set", "e.set_name", "set it was scored on"),
    ViewColumn("eval_split", "e.split", "split of the set"),
    ViewColumn("eval_images", "e.images", "images it was scored on"),
    ViewColumn("eval_seed", "e.subset_seed", "seed of the subset; NULL: the whole split"),
    ViewColumn(
        "evaluator",
        "e.evaluator || ' ' || e.evaluator_version",
        "program that scored; figures of two evaluators never mix",
    ),
    ViewColumn("eval_place", "e.place", "where that inference ran: board or host"),
)

V_TRIALS: Final = View(
    name="v_trials",
    comment=(
        "One row an attempt at a trial. Accuracy is the trial's own, else what the host scored "
        "for the same file in the same run (over most images)."
    ),
    columns=(
        _plain("t", "run_id", "the run"),
        _plain("t", "board", "name of the board"),
        _plain("f", "board_model", "what the board says it is"),
        _plain("f", "emulated", "1: no real board, its speed means nothing"),
        _plain("t", "model", "model"),
        _plain("t", "variant", "variant; `fp32` is the original"),
        _plain("t", "recipe", "recipe that made it"),
        _plain("t", "isa", "instruction set it was built for"),
        _plain("t", "scenario", "how inferences were issued"),
        _plain("t", "threads", "threads within an operator"),
        _plain("t", "block", "randomised block, from 0"),
        _plain("t", "state", "finished, failed, cancelled or interrupted"),
        _plain("t", "short", "1: the time cap ended sampling early"),
        _plain("s", "n", "samples behind the figures"),
        ViewColumn("p50_ms", _ms("s.p50_ns"), "median latency, ms"),
        ViewColumn("p90_ms", _ms("s.p90_ns"), "90th percentile, ms; NULL below 64 samples"),
        ViewColumn("p99_ms", _ms("s.p99_ns"), "99th percentile, ms; NULL below 662 samples"),
        _plain("s", "fps", "inferences a second"),
        _plain("s", "cv", "standard deviation over mean"),
        _plain("s", "steady_from", "first steady sample; NULL: none found"),
        _plain("s", "steady_note", "why none was found"),
        *_EVALUATION_COLUMNS,
        _plain("s", "temp_start_c", "first temperature, degrees C; NULL: no sensor"),
        _plain("s", "temp_max_c", "highest temperature, degrees C; NULL: no sensor"),
        _plain("s", "clock_min_hz", "lowest clock rate; NULL: no source"),
        ViewColumn(
            "throttled",
            "s.throttled_bits",
            "bits seen: 1 under-voltage, 2 capped, 4 throttled, 8 soft limit; NULL: no source",
        ),
        _plain("s", "power_mean_w", "mean power, W; NULL: no source"),
        _plain("a", "size_bytes", "size of the file"),
        ViewColumn("load_ms", _ms("t.load_ns"), "time to load the model, ms"),
        ViewColumn("cold_ms", _ms("s.cold_ns"), "first inference after loading, ms"),
        _plain("t", "peak_rss_bytes", "peak memory of the worker process"),
        _plain("t", "runtime", "what ran the file: onnxruntime, torch or litert"),
        _plain("t", "runtime_version", "version of the runtime"),
        _plain("t", "inputs_kind", "images or synthetic"),
        _plain("t", "started_utc", "when it was started"),
        ViewColumn(
            "failure",
            "t.failure_kind || ': ' || t.failure_message",
            "what went wrong; NULL: nothing",
        ),
        _plain("t", "attempt", "1 for the first attempt"),
        _plain("t", "plan_order", "place in the board's plan"),
        _plain("t", "artifact_sha256", "file that was measured"),
        _plain("t", "trial_id", "the plan's name for it"),
        _plain("e", "evaluation_no", "number that `image_scores` uses; NULL: not scored"),
        _plain("t", "trial_no", "number that `samples` and `readings` use"),
    ),
    from_sql=f"""\
FROM trials t
JOIN boards b ON b.board_no = t.board_no
JOIN fingerprints f ON f.fingerprint_sha256 = b.fingerprint_sha256
JOIN artifacts a ON a.artifact_sha256 = t.artifact_sha256
JOIN summaries s ON s.trial_no = t.trial_no
{_EVALUATION_JOIN}""",
)

# What makes a group of trials that one row sums up: columns of `trials`.
_KEY = (
    "run_id",
    "board",
    "model",
    "variant",
    "recipe",
    "isa",
    "scenario",
    "threads",
    "artifact_sha256",
)
_KEYS = ", ".join(_KEY)
_MEDIANS = {
    "p50_ms": _ms("s.p50_ns"),
    "p90_ms": _ms("s.p90_ns"),
    "p99_ms": _ms("s.p99_ns"),
    "fps": "s.fps",
}


def _lines(parts: Iterable[str]) -> str:
    return ",\n    ".join(parts)


def _place(column: str) -> str:
    """Place of a figure in its group, unknown ones last, and how many are known."""
    return (
        f"ROW_NUMBER() OVER (PARTITION BY g ORDER BY {column} IS NULL, {column}) AS at_{column},"
        f" COUNT({column}) OVER (PARTITION BY g) AS of_{column}"
    )


def _median(column: str) -> str:
    """Median of the known values: the mean of the middle two when even."""
    middle = f"at_{column} IN ((of_{column} + 1) / 2, (of_{column} + 2) / 2)"
    return f"AVG(CASE WHEN {column} IS NOT NULL AND {middle} THEN {column} END) AS {column}"


def _any_bit(*bits: int) -> str:
    """Bitwise OR over a group, which not every database has as an aggregate."""
    bit_of = "CASE WHEN f THEN s.throttled_bits END"
    return " + ".join(f"{bit} * MAX({bit_of} / {bit} % 2)" for bit in bits)


# grouped:  the number g of each trial's group; a number is much faster to sort by than _KEY.
#           f: it has finished, and only such trials bring figures.
# placed:   the order of each figure within its group, for the medians.
# counted:  what is counted or the extreme over a group; any_no is one of its trials.
# scored:   which evaluation speaks for a group: a board's own before the host's, then the one
#           over most images, then the first.
# baseline: the variant fp32 of the same model on the same board, if there is exactly one.
_LEADERBOARD_WITH = f"""\
WITH grouped AS (
  SELECT trial_no, state = 'finished' AS f, DENSE_RANK() OVER (ORDER BY {_KEYS}) AS g
  FROM trials
), figures AS (
  SELECT grouped.g, {_lines(f"{sql} AS {name}" for name, sql in _MEDIANS.items())}
  FROM grouped JOIN summaries s ON s.trial_no = grouped.trial_no WHERE grouped.f
), placed AS (
  SELECT figures.*,
    {_lines(_place(name) for name in _MEDIANS)}
  FROM figures
), medians AS (
  SELECT g,
    {_lines(_median(name) for name in _MEDIANS)}
  FROM placed GROUP BY g
), counted AS (
  SELECT g, MIN(t.trial_no) AS any_no,
    COUNT(CASE WHEN f THEN 1 END) AS trials,
    COUNT(DISTINCT CASE WHEN f THEN t.block END) AS blocks,
    COUNT(DISTINCT t.trial_id) - COUNT(CASE WHEN f THEN 1 END) AS unfinished,
    COUNT(CASE WHEN f AND t.short = 1 THEN 1 END) AS short_trials,
    CAST(COALESCE(SUM(CASE WHEN f THEN s.n END), 0) AS BIGINT) AS n,
    MAX(CASE WHEN f THEN s.temp_max_c END) AS temp_max_c,
    {_any_bit(1, 2, 4, 8)} AS throttled
  FROM grouped
  JOIN trials t ON t.trial_no = grouped.trial_no
  JOIN summaries s ON s.trial_no = grouped.trial_no
  GROUP BY g
), candidates AS (
  SELECT g, e.evaluation_no, e.place, e.images
  FROM grouped JOIN evaluations e ON e.trial_no = grouped.trial_no WHERE f
  UNION ALL
  SELECT c.g, e.evaluation_no, e.place, e.images
  FROM counted c JOIN trials t ON t.trial_no = c.any_no
  JOIN evaluations e ON e.artifact_sha256 = t.artifact_sha256 AND e.run_id = t.run_id
  WHERE e.trial_no IS NULL AND c.trials > 0
), scored AS (
  SELECT g, evaluation_no, ROW_NUMBER() OVER (
    PARTITION BY g ORDER BY place, images DESC, evaluation_no) AS best
  FROM candidates
), baseline AS (
  SELECT t.run_id, t.board, t.model, t.scenario, t.threads, MAX(m.p50_ms) AS p50_ms
  FROM counted c
  JOIN trials t ON t.trial_no = c.any_no
  JOIN medians m ON m.g = c.g
  WHERE t.variant = 'fp32' AND m.p50_ms > 0
  GROUP BY t.run_id, t.board, t.model, t.scenario, t.threads HAVING COUNT(*) = 1
)
"""  # noqa: S608 - all its parts are constants of this file

_RANK = """CASE WHEN f.emulated = 0 AND m.p50_ms IS NOT NULL THEN RANK() OVER (
    PARTITION BY t.run_id, t.model, t.scenario, f.emulated, m.p50_ms IS NULL
    ORDER BY m.p50_ms) END"""

V_LEADERBOARD: Final = View(
    name="v_leaderboard",
    comment=(
        "One row a run, board, model, variant, scenario and number of threads. Figures are the "
        "median over its finished trials of each trial's own figure. Emulated boards are "
        "listed and flagged, and never ranked. Accuracy is a board's own before the host's, "
        "over most images."
    ),
    with_sql=_LEADERBOARD_WITH,
    columns=(
        ViewColumn("rank", _RANK, "place by p50_ms within run, model and scenario; 1 is fastest"),
        _plain("t", "run_id", "the run"),
        _plain("t", "board", "name of the board"),
        _plain("f", "board_model", "what the board says it is"),
        _plain("f", "emulated", "1: no real board, its speed means nothing; rank is NULL"),
        _plain("t", "model", "model"),
        _plain("t", "variant", "variant; `fp32` is the original"),
        _plain("t", "recipe", "recipe that made it"),
        _plain("t", "isa", "instruction set it was built for"),
        _plain("t", "scenario", "how inferences were issued"),
        _plain("t", "threads", "threads within an operator"),
        _plain("t", "runtime", "what ran the file; a variant always has the same one"),
        _plain("a", "size_bytes", "size of the file"),
        _plain("c", "trials", "finished trials, over which the figures are medians"),
        _plain("c", "blocks", "randomised blocks they lie in"),
        _plain("c", "unfinished", "trials without a finished attempt"),
        _plain("c", "short_trials", "finished trials that the time cap ended early"),
        _plain("c", "n", "samples in all finished trials"),
        _plain("m", "p50_ms", "median of the trials' median latencies, ms"),
        _plain("m", "p90_ms", "median of the trials' 90th percentiles, ms"),
        _plain("m", "p99_ms", "median of the trials' 99th percentiles, ms"),
        _plain("m", "fps", "median of the trials' inferences a second"),
        ViewColumn(
            "ratio_to_fp32",
            "m.p50_ms / base.p50_ms",
            "p50_ms over that of fp32 on the same board; below 1 is faster; NULL: none to compare",
        ),
        *_EVALUATION_COLUMNS,
        _plain("c", "temp_max_c", "highest temperature of its trials, degrees C"),
        _plain("c", "throttled", "bits seen in any of its trials, as in v_trials"),
        _plain("t", "artifact_sha256", "file that was measured"),
    ),
    from_sql="""\
FROM counted c
JOIN trials t ON t.trial_no = c.any_no
JOIN boards b ON b.board_no = t.board_no
JOIN fingerprints f ON f.fingerprint_sha256 = b.fingerprint_sha256
JOIN artifacts a ON a.artifact_sha256 = t.artifact_sha256
LEFT JOIN medians m ON m.g = c.g
LEFT JOIN scored ON scored.g = c.g AND scored.best = 1
LEFT JOIN evaluations e ON e.evaluation_no = scored.evaluation_no
LEFT JOIN baseline base ON base.run_id = t.run_id AND base.board = t.board
  AND base.model = t.model AND base.scenario = t.scenario AND base.threads = t.threads""",
)

VIEWS: Final = (V_TRIALS, V_LEADERBOARD, V_IMAGE_SCORES, V_SAMPLE_TIMES, V_LATENCY_BY_TEMP)
