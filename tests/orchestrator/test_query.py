from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.stored import FIRST, LATEST, fill
from support.terminal import on_terminal

from orchestrator import cli


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("query") / "results.sqlite")


def query(database: Path, *args: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(
        cli.cli, ["query", "--db", str(database), *args], input=stdin, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def code(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    return cli.main(["query", *args]), capsys.readouterr().err


def test_a_table_has_the_rows_of_the_answer(database: Path) -> None:
    """The default is a table with the query's own column names, figures to the right."""
    text = query(
        database,
        "SELECT board, p50_ms, throttled FROM v_leaderboard "
        "WHERE run_id LIKE '20260101%' AND variant = 'int8_ptq' ORDER BY board",
    )
    assert [line.rstrip() for line in text.splitlines()] == [
        "board  p50_ms  throttled",
        "────────────────────────",
        "local   5.005       NULL",
        "pi5    120.12          0",
    ]


def test_csv_is_exact(database: Path) -> None:
    """CSV has every digit, NULL as an empty field, bytes in hex and quoted text."""
    text = query(
        database,
        "SELECT 0.1 + 0.2 AS sum, NULL AS none, x'00ff' AS bytes, 'a,\"b' || char(10) AS text",
        "--format", "csv",
    )  # fmt: skip
    assert list(csv.reader(io.StringIO(text))) == [
        ["sum", "none", "bytes", "text"],
        ["0.30000000000000004", "", "00ff", 'a,"b\n'],
    ]


def test_json_is_exact(database: Path) -> None:
    """JSON is a list of objects that keeps numbers, text and NULL apart."""
    text = query(
        database,
        "SELECT 0.1 + 0.2 AS sum, NULL AS none, 9e999 AS endless, 'ä' AS text, "
        "9007199254740993 AS big UNION ALL SELECT 1, 2, 3, 4, 5",
        "--format", "json",
    )  # fmt: skip
    assert json.loads(text) == [
        {"sum": 0.1 + 0.2, "none": None, "endless": "inf", "text": "ä", "big": 2**53 + 1},
        {"sum": 1, "none": 2, "endless": 3, "text": 4, "big": 5},
    ]
    assert json.loads(query(database, "SELECT 1 AS a WHERE 0", "--format", "json")) == []


def test_json_refuses_two_columns_of_one_name(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two columns of one name would lose one of them in JSON, so they are refused."""
    sql = "SELECT 1 AS a, 2 AS a"
    status, err = code(capsys, "--db", str(database), sql, "--format", "json")
    assert status == 42
    assert "two columns are called 'a': rename one of them with AS" in err


def test_sql_is_read_from_standard_input(database: Path) -> None:
    """With `-` the query comes from standard input, several lines of it if need be."""
    text = query(database, "-", "--format", "csv", stdin="SELECT run_id\nFROM runs\nORDER BY 1\n")
    assert text.split() == ["run_id", FIRST, LATEST]


def test_a_limit_says_that_there_is_more(database: Path) -> None:
    """A limited answer says so on stderr; csv and json are limited only when asked."""
    result = CliRunner().invoke(
        cli.cli,
        ["query", "--db", str(database), "SELECT seq FROM samples", "--limit", "3"],
    )
    assert result.stdout.split() == ["seq", "───", "0", "1", "2"]
    assert "more than these 3 rows" in result.stderr
    everything = query(database, "SELECT seq FROM samples", "--format", "csv").split()
    assert len(everything) == 1 + 15 * 717
    table = CliRunner().invoke(cli.cli, ["query", "--db", str(database), "SELECT seq FROM samples"])
    assert "more than these 1000 rows" in table.stderr


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM runs", 42),
        ("DROP VIEW v_trials", 42),
        ("ATTACH '/tmp/x.sqlite' AS x", 42),
        ("PRAGMA journal_mode = DELETE", 42),
        ("SELECT nothing FROM runs", 42),
        ("SELEC 1", 42),
        ("SELECT 1; SELECT 2", 42),
        ("", 42),
    ],
)
def test_a_wrong_or_writing_query_ends_with_42(
    database: Path, sql: str, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQL that is wrong or would write ends with its exit code and changes nothing."""
    before = database.read_bytes()
    status, err = code(capsys, "--db", str(database), sql)
    assert status == expected
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert database.read_bytes() == before


def test_a_database_that_cannot_be_used_is_named(
    tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, another kind of file and a newer version each have their exit code."""
    status, err = code(capsys, "--db", str(tmp_path / "absent.sqlite"), "SELECT 1")
    assert (status, "absent.sqlite" in err) == (40, True)
    (tmp_path / "text.sqlite").write_text("this is no database " * 100)
    assert code(capsys, "--db", str(tmp_path / "text.sqlite"), "SELECT 1")[0] == 40
    newer = tmp_path / "newer.sqlite"
    newer.write_bytes(database.read_bytes())
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE schema_info SET version = 99")
    connection.close()
    status, err = code(capsys, "--db", str(newer), "SELECT 1")
    assert (status, "99" in err) == (41, True)


def test_the_database_lies_beside_the_nearest_inventory(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --db, the database beside the inventory is asked, also from a folder below."""
    (tmp_path / "inventory.yaml").write_text("not even valid: [\n")
    (tmp_path / "results.sqlite").write_bytes(database.read_bytes())
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    result = CliRunner().invoke(cli.cli, ["query", "SELECT COUNT(*) AS n FROM runs"])
    assert result.stdout.split() == ["n", "─", "2"]


def test_without_an_inventory_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is neither --db nor an inventory, the exit code is the inventory's."""
    monkeypatch.chdir(tmp_path)
    status, err = code(capsys, "SELECT 1")
    assert (status, "no inventory.yaml in" in err) == (10, True)


def test_a_url_is_refused_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    """A database server is asked with its own client; its password is not repeated."""
    status, err = code(capsys, "--db", "postgresql://me:secret@host/db", "SELECT 1")
    assert (status, "secret" in err, "its own client" in err) == (2, False, True)


def test_a_database_in_a_folder_that_cannot_be_written_is_read(
    database: Path, tmp_path: Path
) -> None:
    """A copy on read-only media can be queried."""
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(database.read_bytes())
    copy.chmod(stat.S_IRUSR)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert query(copy, "SELECT COUNT(*) AS n FROM runs", "--format", "csv").split() == [
            "n",
            "2",
        ]
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_terminal_gets_no_control_characters(database: Path, form: str) -> None:
    """What a board smuggled into a name cannot move the cursor of who asks for it."""
    sql = "SELECT char(27) || '[2J' || char(155) || 'x' || char(8238) AS \"na\x1b[31mme\""
    lines = on_terminal(["query", "--db", str(database), sql, "--format", form], 80)
    text = "".join(lines)
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert "[2J" in text


@pytest.mark.parametrize("columns", [80, 120])
def test_a_wide_row_is_shown_record_by_record(database: Path, columns: int) -> None:
    """On a terminal that is too narrow, each row is a block of lines, with nothing cut."""
    sql = "SELECT * FROM v_trials WHERE run_id LIKE '20260102%' AND block = 0"
    lines = on_terminal(["query", "--db", str(database), sql], columns)
    assert lines[0] == "row 1"
    assert f"  run_id           {LATEST}" in lines
    assert any("out_of_memory: killed at 0.9 GB" in line for line in lines)


def test_neither_rich_nor_sqlalchemy_is_needed_for_csv(database: Path) -> None:
    """A script that asks for CSV does not wait for the libraries that it does not need."""
    script = (
        "import sys; from orchestrator.cli import main; "
        f"main(['query', '--db', {str(database)!r}, 'SELECT 1', '--format', 'csv']); "
        "print(sorted({'rich', 'sqlalchemy', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[-2] == "[]"


def test_the_exit_code_reaches_the_shell(database: Path) -> None:
    """The real process ends with 0, and with 42 for a query that writes."""
    command = [sys.executable, "-m", "orchestrator", "query", "--db", str(database)]
    environment = {**os.environ, "NO_COLOR": "1"}
    good = subprocess.run(
        [*command, "SELECT 1 AS a"], capture_output=True, check=False, env=environment, timeout=60
    )
    bad = subprocess.run(
        [*command, "DELETE FROM runs"],
        capture_output=True,
        check=False,
        env=environment,
        timeout=60,
    )
    assert (good.returncode, bad.returncode) == (0, 42)
    assert good.stderr == b"1 row\n"
