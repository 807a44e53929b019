"""The table of OAuth tokens: rows as they are stored, and the claim by which one process at a time refreshes a pair.

Tokens are sealed before they get here, and opened by `oauth.shelf` only.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, delete, or_, select, update

from rankr_sync.schema import oauth_tokens as table
from rankr_sync.store.connect import upsert_into


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A row of `oauth_tokens`. `updated_at` is when the tokens were got."""

    id: str
    user_type: str
    company_id: str | None
    location_id: str | None
    scopes: str | None
    access_token: str
    refresh_token: str | None
    expires_at: datetime
    status: str
    error: str | None
    updated_at: datetime
    refreshing_by: str | None = None
    refreshing_until: datetime | None = None


_COLUMNS = [table.c[field.name] for field in fields(GrantRow)]


def find(connection: Connection, id_: str) -> GrantRow | None:
    """The grant of this id."""
    row = connection.execute(select(*_COLUMNS).where(table.c.id == id_)).mappings().first()
    return GrantRow(**row) if row is not None else None


def every(connection: Connection) -> list[GrantRow]:
    """Every grant, by id."""
    return [GrantRow(**row) for row in connection.execute(select(*_COLUMNS).order_by(table.c.id)).mappings()]


def claim(connection: Connection, id_: str, holder: str, now: datetime, until: datetime) -> GrantRow | None:
    """Claim the refreshing of a grant, unless somebody's claim is good still; the row as it is then, if there is one.

    Who reads another's name in `refreshing_by` has not got it.
    """
    free = or_(table.c.refreshing_until.is_(None), table.c.refreshing_until < now)
    connection.execute(
        update(table).where(table.c.id == id_, free).values(refreshing_by=holder, refreshing_until=until)
    )
    return find(connection, id_)


def release(connection: Connection, id_: str, holder: str, *, error: str | None, status: str | None = None) -> None:
    """Give a claim back without new tokens."""
    values = {"refreshing_by": None, "refreshing_until": None, "error": error} | ({"status": status} if status else {})
    connection.execute(update(table).where(table.c.id == id_, table.c.refreshing_by == holder).values(**values))


def save(connection: Connection, row: GrantRow) -> None:
    """Keep a grant, over what was known of it."""
    new = upsert_into(connection, table)
    changed = {column.name: new.excluded[column.name] for column in _COLUMNS if column.name != "id"}
    connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=changed), [asdict(row)])


def forget(connection: Connection, ids: Iterable[str]) -> int:
    """Remove these grants; how many there were."""
    return connection.execute(delete(table).where(table.c.id.in_(list(ids)))).rowcount
