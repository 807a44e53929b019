"""Walks that show less than there is. The location's task search is poorly documented, so it is not believed blindly:
what a direct read knows and whole walks do not show makes a walk suspect, and then the stream is read contact by
contact for a day before the walk is tried again.
"""

from datetime import datetime, timedelta

import structlog

from rankr_sync.engine.context import LocationContext, Transaction
from rankr_sync.model import Tally
from rankr_sync.streams import STREAMS, Stream
from rankr_sync.visits import DAY

log = structlog.get_logger()

MOST_MISSED = 5.0
"""So many records that a walk did not show, those of yesterday counting half, are more than chance."""


def note_missed(context: LocationContext, tx: Transaction, stream: Stream, records: int) -> None:
    """Note contacts with records that are there although a whole walk did not show them."""
    if not records:
        return
    now, id_ = context.now(), context.location_id
    before = tx.setting(_missed_key(id_, stream))
    missed = float(records)
    if before is not None:
        days = max((now - datetime.fromisoformat(before["at"])) / DAY, 0.0)
        missed += before["missed"] * 0.5**days
    if missed < MOST_MISSED:
        tx.save_setting(_missed_key(id_, stream), {"missed": missed, "at": now.isoformat()}, now)
        return
    until = now + DAY
    words = (
        f"the {' and '.join(walk.name for walk in stream.walks)} of {stream.name} does not show all there are:"
        f" they are read contact by contact until {until:%Y-%m-%d %H:%M} UTC"
    )
    tx.drop_setting(_missed_key(id_, stream))
    tx.save_setting(_closed_key(id_, stream), {"until": until.isoformat()}, now)
    run_id = tx.start_run(id_, stream.name, "audit", now)
    tx.save_run(run_id, Tally(), status="failed", error=words, now=now)
    context.agenda.add_missing(tx, stream.name)
    _close(context, stream)
    log.warning("walk.incomplete", location=id_, stream=stream.name, until=until.isoformat(timespec="minutes"))


def recall_closed(context: LocationContext, tx: Transaction) -> None:
    """Do without the walks that were found incomplete, and try those again whose day is over."""
    now = context.now()
    for stream in STREAMS.values():
        noted = tx.setting(_closed_key(context.location_id, stream))
        if noted is None:
            continue
        if timedelta(0) < datetime.fromisoformat(noted["until"]) - now <= DAY:
            _close(context, stream)
        else:
            context.refused -= {(stream.name, walk.name) for walk in stream.walks}
            tx.drop_setting(_closed_key(context.location_id, stream))


def _close(context: LocationContext, stream: Stream) -> None:
    context.refused |= {(stream.name, walk.name) for walk in stream.walks}


def _missed_key(location_id: str, stream: Stream) -> str:
    return f"missed:{location_id}:{stream.name}"


def _closed_key(location_id: str, stream: Stream) -> str:
    return f"closed:{location_id}:{stream.name}"
