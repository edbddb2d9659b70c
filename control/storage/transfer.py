"""Every row of one region's database into another, whatever the two are: SQLite to PostgreSQL, either into a backup.

Tables and columns are those of the models, so both sides must have this version's schema. What was written is read
again and compared row by row.

Invariants: the target's rows appear in one transaction of the caller's or not at all; afterwards its sequences go on
behind the highest id. Text that PostgreSQL cannot hold (NUL) arrives as U+FFFD. Left to others: which databases
(migrate_database, backup), that nobody writes to the source meanwhile or that it is a snapshot.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from bootplane.control.errors import BootplaneError
from bootplane.control.storage.models import Model

BATCH = 500


class TransferError(BootplaneError):
    """Rows cannot be taken over, or did not arrive as they were; one sentence."""

    status = 422
    title = "cannot transfer"
    kind = "transfer"


def count_rows(connection: sa.Connection) -> int:
    """Of all tables: what a transfer from here has to do."""
    return sum(_count(connection, table) for table in Model.metadata.sorted_tables)


def copy_all(
    source: sa.Connection, target: sa.Connection, progress: Callable[[int], None] = lambda _rows: None
) -> dict[str, int]:
    """Copy and compare; table -> rows. Raises TransferError, after which the caller rolls the target back."""
    copied: dict[str, int] = {}
    for table in Model.metadata.sorted_tables:
        try:
            copied[table.name] = _copy(source, target, table, progress)
        except sa.exc.DBAPIError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise TransferError(f"table {table.name}: cannot be taken over: {reason}") from None
        expected, got = _digest(source, table), _digest(target, table)
        if expected != got:
            raise TransferError(
                f"table {table.name}: expected {expected[0]} rows with digest {expected[1][:16]}, "
                f"got {got[0]} with {got[1][:16]}"
            )
        _advance(target, table)
    return copied


def same_rows(source: sa.Connection, target: sa.Connection) -> dict[str, int] | None:
    """Table -> rows, when both sides have the very same; else None."""
    counts: dict[str, int] = {}
    for table in Model.metadata.sorted_tables:
        expected = _digest(source, table)
        if expected != _digest(target, table):
            return None
        counts[table.name] = expected[0]
    return counts


def _copy(source: sa.Connection, target: sa.Connection, table: sa.Table, progress: Callable[[int], None]) -> int:
    insert = table.insert().values({column.name: sa.bindparam(column.name, type_=_type(column)) for column in table.c})
    count = 0
    rows = source.execute(sa.select(table), execution_options={"yield_per": BATCH})
    for batch in rows.mappings().partitions():
        target.execute(insert, [{key: _text(value) for key, value in row.items()} for row in batch])
        count += len(batch)
        progress(len(batch))
    return count


def _type(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    """As the column's own, but nothing is NULL and not the JSON of nothing."""
    return sa.JSON(none_as_null=True) if isinstance(column.type, sa.JSON) else column.type


def _digest(connection: sa.Connection, table: sa.Table) -> tuple[int, str]:
    """How many rows there are, and a digest of them that does not depend on their order."""
    count, total = 0, 0
    for row in _rows(connection, table):
        count += 1
        total = (total + int.from_bytes(hashlib.sha256(row).digest())) % (1 << 256)
    return count, f"{total:064x}"


def _rows(connection: sa.Connection, table: sa.Table) -> Iterator[bytes]:
    for row in connection.execute(sa.select(table), execution_options={"yield_per": BATCH}).mappings():
        plain = {key: _text(value) for key, value in row.items()}
        yield json.dumps(plain, sort_keys=True, default=lambda raw: bytes(raw).hex()).encode()


def _text(value: Any) -> Any:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def _advance(target: sa.Connection, table: sa.Table) -> None:
    """PostgreSQL counts ids on its own: let it go on where the rows end."""
    column = table.autoincrement_column
    if column is None or target.dialect.name != "postgresql":
        return
    sequence = target.execute(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))).scalar_one()
    if sequence is None:
        return
    highest = target.execute(sa.select(sa.func.max(column))).scalar_one()
    target.execute(sa.select(sa.func.setval(sequence, highest or 1, highest is not None)))
