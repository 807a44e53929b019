"""Pulling one contact fresh for whoever looks at its page, within the rate budget and a few seconds."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from rankr_sync.app import App
from rankr_sync.engine import SPARE_REQUESTS
from rankr_sync.errors import RankrSyncError

log = structlog.get_logger()

FRESH_FOR = timedelta(minutes=1)
"""A contact that was looked at within so long is shown as it is stored."""

PATIENCE = 5.0
"""Seconds that a person waits for the API."""

MOST_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Pull:
    """A try to pull a contact: when it ended, and why it brought nothing (None: it did)."""

    at: datetime
    problem: str | None = None


class Pulls:
    """The last pull of each contact, in this process."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._last: dict[tuple[str, str], Pull] = {}

    def last(self, location_id: str, contact_id: str) -> Pull | None:
        """The last try, however it ended."""
        return self._last.get((location_id, contact_id))

    def is_due(self, location_id: str, contact_id: str, looked_at: datetime | None, now: datetime) -> bool:
        """Whether the contact should be pulled before it is shown."""
        last = self.last(location_id, contact_id)
        moments = [moment for moment in (looked_at, last.at if last else None) if moment is not None]
        return all(now - moment > FRESH_FOR for moment in moments)

    async def pull(self, app: App, location_id: str, contact_id: str, record: tuple[str, str] | None = None) -> Pull:
        """Pull it, or give up after a few seconds. Never raises for what the API or the store does.

        `record`: stream and id of one task or note of the contact, which is then pulled alone.
        """
        sync, problem = app.locations[location_id], None
        try:
            async with asyncio.timeout(self._patience):
                async with app.leases[location_id].kept_or_lent(sync.refresh_requests + SPARE_REQUESTS):
                    if not sync.context.rules:
                        await sync.recall()
                    if record is not None:
                        stream, id_ = record
                        if not await sync.pull(stream, contact_id, id_):
                            problem = "HighLevel does not know this record any more."
                    elif not await sync.refresh(contact_id):
                        problem = "HighLevel does not know this contact any more."
        except TimeoutError:
            problem = f"HighLevel did not answer within {self._patience:.0f} seconds."
        except RankrSyncError as error:
            problem = f"It could not be pulled: {error}."
        if problem is not None:
            log.info("contact.not_pulled", location=location_id, contact=contact_id, reason=problem)
        done = Pull(sync.context.now(), problem)
        if record is None or problem is not None:  # one record says nothing of how fresh the contact is
            self._last[location_id, contact_id] = done
        while len(self._last) > MOST_KEPT:
            del self._last[next(iter(self._last))]
        return done
