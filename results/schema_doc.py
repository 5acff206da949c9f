"""Writes `docs/schema.md` from the tables' own metadata and a database built for it.

python -m results.schema_doc            # write it
python -m results.schema_doc --check    # exit status 1 when it is not up to date
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import CheckConstraint, Column, Index, Table, UniqueConstraint
from sqlalchemy.dialects import sqlite

from results import example
from results.schema import Base
from results.sql import QueryResult, read_only_query
from results.store import Store
from results.version import SCHEMA_VERSION
from results.view import View
from results.views import VIEWS

DEFAULT_PATH: Final = Path("docs/schema.md")
_DIALECT: Final = sqlite.dialect()

_HEAD: Final = f"""\
# The database

Written by `python -m results.schema_doc`; do not edit. Schema version {SCHEMA_VERSION}.

Results lie in one SQLite file (or, by a SQLAlchemy URL, in PostgreSQL with the same tables).
Units are in the names: `_ns`, `_ms`, `_bytes`, `_c` (degrees Celsius), `_hz`, `_w`. NULL means
'not known' or 'this board cannot say', never zero. Times of day are the host's clock as text,
`YYYY-MM-DDTHH:MM:SS.ffffffZ`; `*_monotonic_ns` and `t_ns` are the board's own clock, to be
compared only with each other. Flags are 0 or 1. Tables are STRICT in SQLite.

Start with `v_trials` and `v_leaderboard`; they have one row a trial and one row a variant.
`v_image_scores` has one row an image that was scored.
`v_sample_times` and `v_latency_by_temp` have one row an inference. Everything is read with

    orchestrator query "SELECT ..."

which cannot change the file. Each trial is stored in one transaction with its samples,
readings, summary and evaluation; once finished it never changes. The writer works in WAL mode
with `synchronous = FULL`, so readers never wait, and what is committed survives a power cut.
"""

_EXAMPLES: Final = {
    "v_trials": """\
SELECT board, variant, block, n, p50_ms, p90_ms, p99_ms, map50, temp_max_c, emulated
FROM v_trials ORDER BY board, variant, block""",
    "v_leaderboard": """\
SELECT rank, board, variant, p50_ms, ROUND(ratio_to_fp32, 3) AS ratio, map50, eval_set,
  eval_images, emulated
FROM v_leaderboard ORDER BY emulated, rank""",
    "v_image_scores": """\
SELECT a.model, b.variant, COUNT(*) AS images, ROUND(AVG(b.dice - a.dice), 3) AS dice_difference
FROM v_image_scores a JOIN v_image_scores b USING (run_id, model, eval_set, image_id)
WHERE a.variant = 'fp32' AND b.variant <> 'fp32' AND a.board IS NULL AND b.board IS NULL
GROUP BY a.model, b.variant""",
    "v_sample_times": """\
SELECT trial_no, seq, phase, t_ns, latency_ns FROM v_sample_times
WHERE trial_no = 1 AND seq < 5 ORDER BY seq""",
    "v_latency_by_temp": """\
SELECT board, variant, temp_c, COUNT(*) AS n, ROUND(AVG(latency_ms), 2) AS mean_ms
FROM v_latency_by_temp WHERE phase = 2
GROUP BY board, variant, temp_c ORDER BY board, variant, temp_c""",
    "samples": """\
SELECT t.board, t.variant, s.phase, COUNT(*) AS n, MIN(s.latency_ns), MAX(s.latency_ns)
FROM samples s JOIN trials t ON t.trial_no = s.trial_no
WHERE t.block = 0 AND t.board = 'pi5'
GROUP BY t.board, t.variant, s.phase ORDER BY t.variant, s.phase""",
}


def document() -> str:
    """The whole text of the document."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.sqlite"
        with Store.open(path, create=True) as store:
            example.fill(store)
        parts = [_HEAD, "## Views\n", *(_view(view, path) for view in VIEWS), "## Tables\n"]
        parts += [_table(table) for table in Base.metadata.sorted_tables]
        parts += ["## An example over raw samples\n", _example(_EXAMPLES["samples"], path)]
    return "\n".join(parts)


def _view(view: View, path: Path) -> str:
    rows = [(f"`{column.name}`", column.meaning) for column in view.columns]
    columns = _markdown(("column", "meaning"), rows)
    example_text = _example(_EXAMPLES[view.name], path)
    return f"### {view.name}\n\n{view.comment}\n\n{columns}\n{example_text}"


def _example(sql: str, path: Path) -> str:
    """A query and what it really answers over the example database."""
    result = read_only_query(path, sql)
    return f"```sql\n{sql}\n```\n\n{_answer(result)}"


def _answer(result: QueryResult) -> str:
    rows = [["NULL" if value is None else str(value) for value in row] for row in result.rows]
    return _markdown(result.columns, rows)


def _table(table: Table) -> str:
    columns = [_column(column) for column in table.columns]
    head = ("column", "type", "NULL", "key", "meaning")
    rules = "".join(f"- {rule}\n" for rule in _rules(table))
    return f"### {table.name}\n\n{table.comment}\n\n{_markdown(head, columns)}\n{rules}"


def _column(column: Column[object]) -> tuple[str, ...]:
    keys = ["primary"] if column.primary_key else []
    keys += sorted(f"`{key.target_fullname}`" for key in column.foreign_keys)
    kind = column.type.compile(_DIALECT)
    null = "may be" if column.nullable else ""
    return (f"`{column.name}`", kind, null, ", ".join(keys), column.comment or "")


def _rules(table: Table) -> Iterable[str]:
    """What the database itself refuses, in a stable order."""
    for key in sorted(table.foreign_key_constraints, key=lambda key: list(key.column_keys)):
        names = ", ".join(key.column_keys)
        action = "deleted with it" if key.ondelete == "CASCADE" else "which then cannot be deleted"
        yield f"`{names}` refers to `{key.referred_table.name}`, {action}"
    checks = [c for c in table.constraints if isinstance(c, CheckConstraint)]
    yield from sorted(f"`{check.sqltext}`" for check in checks)
    uniques = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    yield from sorted(f"unique: `{_names(unique.columns)}`" for unique in uniques)
    yield from sorted(_partial(index) for index in table.indexes if index.unique)


def _partial(index: Index) -> str:
    where = index.dialect_options["sqlite"]["where"]
    return f"unique where `{where}`: `{_names(index.columns)}`"


def _names(columns: Iterable[Column[object]]) -> str:
    return ", ".join(column.name for column in columns)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document, or say whether it is up to date."""
    parser = argparse.ArgumentParser(prog="python -m results.schema_doc")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it differs")
    parser.add_argument("path", type=Path, nargs="?", default=DEFAULT_PATH)
    options = parser.parse_args(arguments)
    text = document()
    if not options.check:
        options.path.write_text(text, encoding="utf-8")
        return 0
    found = options.path.read_text(encoding="utf-8") if options.path.exists() else None
    if found == text:
        return 0
    sys.stderr.write(f"{options.path} is not up to date: run python -m results.schema_doc\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
