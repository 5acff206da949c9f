"""What a view is made of: its columns, each with its SQL and its meaning side by side."""

from __future__ import annotations

from dataclasses import dataclass

_DOUBLE = "DOUBLE PRECISION"


@dataclass(frozen=True)
class ViewColumn:
    """A column of a view: its name, its SQL and what it means."""

    name: str
    sql: str
    meaning: str


@dataclass(frozen=True)
class View:
    """A view: `with_sql` goes before SELECT, `from_sql` after the columns."""

    name: str
    comment: str
    columns: tuple[ViewColumn, ...]
    from_sql: str
    with_sql: str = ""

    def create_sql(self) -> str:
        """The CREATE VIEW statement."""
        columns = ",\n  ".join(f"{column.sql} AS {column.name}" for column in self.columns)
        body = f"SELECT\n  {columns}\n{self.from_sql}"
        return f"CREATE VIEW {self.name} AS\n{self.with_sql}{body}"


def ms(column: str) -> str:
    """SQL of nanoseconds as milliseconds."""
    return f"CAST({column} AS {_DOUBLE}) / 1e6"


def seconds(column: str) -> str:
    """SQL of nanoseconds as seconds."""
    return f"CAST({column} AS {_DOUBLE}) / 1e9"


def plain(table: str, name: str, meaning: str) -> ViewColumn:
    """A column of a table as it is."""
    return ViewColumn(name, f"{table}.{name}", meaning)
