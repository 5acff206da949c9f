"""Column types and constraints that SQLite (STRICT) and PostgreSQL both take."""

from __future__ import annotations

from typing import Annotated, Any

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Double,
    Integer,
    SmallInteger,
    Text,
)
from sqlalchemy.orm import mapped_column

_BIG = BigInteger().with_variant(Integer(), "sqlite")
_SMALL = SmallInteger().with_variant(Integer(), "sqlite")
_REAL: Double[float] = Double().with_variant(REAL(), "sqlite")

Big = Annotated[int, mapped_column(_BIG)]
Small = Annotated[int, mapped_column(_SMALL)]
Real = Annotated[float, mapped_column(_REAL)]
Str = Annotated[str, mapped_column(Text())]


def about(meaning: str) -> Any:
    """A column whose type follows from its annotation, with its meaning."""
    return mapped_column(comment=meaning)


def options(*parts: Any, comment: str, **sqlite: bool) -> Any:
    """Table arguments: constraints, the table's meaning, and STRICT on SQLite."""
    return (*parts, {"comment": comment, "sqlite_strict": True, **sqlite})


def one_of(column: str, *values: str) -> CheckConstraint:
    """A CHECK that a text column holds one of a few words."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=f"{column}_is_known")


def at_least(minimum: int, *columns: str) -> list[CheckConstraint]:
    """CHECKs that integer columns are not below a minimum; NULL passes."""
    return [CheckConstraint(f"{c} >= {minimum}", name=f"{c}_at_least_{minimum}") for c in columns]


def digest(column: str) -> CheckConstraint:
    """A CHECK that a text column is as long as a sha256 in hex; NULL passes."""
    return CheckConstraint(f"length({column}) = 64", name=f"{column}_is_sha256")
