"""What grants there are, for people and for `check`: no key is needed to tell, and no token is read."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from rankr_sync.oauth.shelf import ENDED, LOCATIONS_KEY
from rankr_sync.store import SqlStore, grants


@dataclass(frozen=True, slots=True)
class GrantState:
    """One grant. `renews`: by its own refresh token; else it is made anew of the agency's."""

    id: str
    user_type: str
    company_id: str | None
    location_id: str | None
    scopes: tuple[str, ...]
    expires_at: datetime
    status: str
    error: str | None
    renews: bool
    got_at: datetime

    @property
    def ended(self) -> bool:
        """Whether only a new login helps."""
        return self.status == ENDED


def state(store: SqlStore, now: datetime) -> list[GrantState]:
    """Every grant; its status is `active`, `expired` (refreshed when it is next needed) or `ended` (log in again)."""
    with store.reading() as tx:
        rows = grants.every(tx.connection)
    return [
        GrantState(
            row.id,
            row.user_type,
            row.company_id,
            row.location_id,
            tuple((row.scopes or "").split()),
            row.expires_at,
            ENDED if row.status == ENDED else "expired" if row.expires_at <= now else row.status,
            row.error,
            row.refresh_token is not None,
            row.updated_at,
        )
        for row in rows
    ]


def not_granted(wanted: Iterable[str], scopes: Collection[str]) -> list[str]:
    """The scopes that are wanted and were not granted; none where it was not told which were."""
    return [scope for scope in wanted if scopes and scope not in scopes]


def forget(store: SqlStore, ids: Iterable[str] | None = None) -> list[str]:
    """Remove these grants, or all of them; with an agency's, the tokens that were made of it. Returns whose."""
    with store.transaction() as tx:
        rows = grants.every(tx.connection)
        wanted = {row.id for row in rows} if ids is None else set(ids)
        agencies = {row.company_id for row in rows if row.id in wanted and row.location_id is None}
        gone = [
            row.id for row in rows if row.id in wanted or (row.refresh_token is None and row.company_id in agencies)
        ]
        grants.forget(tx.connection, gone)
        if agencies:
            tx.drop_setting(LOCATIONS_KEY)
    return gone
