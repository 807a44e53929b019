"""The part of a transaction that knows by which field mapping the stored rows were made.

Whoever writes rows notes the mapping that made them, in the same transaction: so one look at the start tells whether
rows of a former mapping are left, whichever process wrote them. `remap` brings these up to date.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select

from rankr_sync import schema
from rankr_sync.model import JsonObject, MappingState, Row
from rankr_sync.plan import KEPT_WITHOUT
from rankr_sync.store.connect import is_sqlite, upsert_into
from rankr_sync.streams import Stream


class MappingRows:
    """Field mappings within an open transaction."""

    connection: Connection

    def mapping_state(self, location_id: str, stream: str, *, alone: bool = False) -> MappingState | None:
        """By which mapping the rows of a stream were made; None where none was ever written.

        `alone`: nobody else notes another until this transaction ends.
        """
        table = schema.sync_settings
        query = select(table.c.value).where(table.c.key == _key(location_id, stream))
        if alone and not is_sqlite(self.connection):
            query = query.with_for_update()
        value = self.connection.execute(query).scalar()
        if value is None:
            return None
        since = value["since"]
        return MappingState(value["digest"], value["newer"], datetime.fromisoformat(since) if since else None)

    def save_mapping_state(self, location_id: str, stream: str, state: MappingState, now: datetime) -> None:
        """Save by which mapping the rows of a stream were made."""
        table = schema.sync_settings
        since = state.since.isoformat() if state.since else None
        value = {"digest": state.digest, "newer": state.newer, "since": since}
        row = {"key": _key(location_id, stream), "value": value, "updated_at": now}
        new = upsert_into(self.connection, table)
        changed = {name: new.excluded[name] for name in ("value", "updated_at")}
        self.connection.execute(new.on_conflict_do_update(index_elements=["key"], set_=changed), [row])

    def use_mapping(self, location_id: str, stream: str, digest: str, now: datetime) -> MappingState:
        """Note that rows are made by the mapping of `digest` from now on. Returns what is so afterwards."""
        state = self.mapping_state(location_id, stream)
        noted = state.using(digest, now) if state is not None else MappingState(digest)
        if noted != state:
            # Only the first to come with another mapping waits here for others.
            state = self.mapping_state(location_id, stream, alone=True)
            noted = state.using(digest, now) if state is not None else MappingState(digest)
            self.save_mapping_state(location_id, stream, noted, now)
        return noted

    def count_former(self, stream: Stream, location_id: str, digest: str) -> int:
        """How many rows were not made by the mapping of `digest`."""
        state = self.mapping_state(location_id, stream.name)
        if state is None or state.is_of(digest):
            return 0
        table = stream.table
        query = select(func.count()).select_from(table).where(table.c.location_id == location_id)
        if state.newer == digest:
            query = query.where(table.c.synced_at < state.since)
        return int(self.connection.execute(query).scalar_one())

    # -- rows to be mapped again -----------------------------------------------------------------------

    def next_ids(self, stream: Stream, location_id: str, after: str, limit: int) -> list[str]:
        """The ids that follow `after`, tombstones included."""
        table = stream.table
        query = select(table.c.id).where(table.c.location_id == location_id, table.c.id > after)
        return list(self.connection.execute(query.order_by(table.c.id).limit(limit)).scalars())

    def whole_rows(self, stream: Stream, location_id: str, ids: Sequence[str], *, wait: bool) -> list[Row]:
        """These rows, kept from others until this transaction ends.

        Without `wait`, those that another transaction has in hand are left out.
        """
        table = stream.table
        query = select(table).where(table.c.location_id == location_id, table.c.id.in_(ids)).order_by(table.c.id)
        if not is_sqlite(self.connection):
            query = query.with_for_update(skip_locked=not wait)
        return [dict(row) for row in self.connection.execute(query).mappings()]

    def remap_place(self, location_id: str) -> JsonObject | None:
        """Where a `remap` stands, or None; kept from others until this transaction ends."""
        table = schema.sync_settings
        query = select(table.c.value).where(table.c.key == remap_key(location_id))
        if not is_sqlite(self.connection):
            query = query.with_for_update()
        found: JsonObject | None = self.connection.execute(query).scalar()
        return found

    def wait_for_writers(self, stream: Stream) -> None:
        """Return when every transaction that has written to this stream's table has ended.

        What it inserted cannot be seen before, and would be passed over. On SQLite there is no other writer.
        """
        if not is_sqlite(self.connection):
            self.connection.exec_driver_sql(f"LOCK TABLE {stream.table.name} IN SHARE MODE")

    def settle_readable(self, stream: Stream, location_id: str, ids: Collection[str]) -> None:
        """Forget the rejects of these records that are only about values which could not be read."""
        table = schema.sync_rejects
        readable = self._rejects_of(stream, location_id, ids) & table.c.reason.startswith(KEPT_WITHOUT)
        self.connection.execute(delete(table).where(readable))

    def refused_ids(self, stream: Stream, location_id: str, ids: Collection[str]) -> set[str]:
        """Those of these records of which a newer payload waits among the rejects."""
        table = schema.sync_rejects
        refused = self._rejects_of(stream, location_id, ids) & ~table.c.reason.startswith(KEPT_WITHOUT)
        return set(self.connection.execute(select(table.c.external_id).where(refused)).scalars())

    def _rejects_of(self, stream: Stream, location_id: str, ids: Collection[str]) -> ColumnElement[bool]:
        table = schema.sync_rejects
        mine = and_(table.c.location_id == location_id, table.c.stream == stream.name)
        return and_(mine, table.c.external_id.in_(list(ids)))


def _key(location_id: str, stream: str) -> str:
    """In `sync_settings`."""
    return f"mapping:{location_id}:{stream}"


def remap_key(location_id: str) -> str:
    """Where a `remap` keeps its place, in `sync_settings`."""
    return f"remap:{location_id}"
