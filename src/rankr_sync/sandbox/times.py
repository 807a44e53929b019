"""Writing and reading the date formats the API mixes. No clock lives here."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

_EPOCH_MS = re.compile(r"-?\d{9,16}")


def iso(ms: int) -> str:
    """`2026-07-17T07:11:57.939Z`, the form of contacts, notes, tasks and search."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def epoch_ms(value: object) -> int | None:
    """Milliseconds since 1970 of an ISO text, a date, or epoch ms as number or text; None when it is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value)
    if not isinstance(value, str):
        return None
    if _EPOCH_MS.fullmatch(value):
        return int(value)
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return None
    return round((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def local_ms(value: object, zone: ZoneInfo) -> int | None:
    """As `epoch_ms`, but a text without a zone is read as the location's own time."""
    if isinstance(value, str) and not _EPOCH_MS.fullmatch(value):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            return None
        return round((parsed if parsed.tzinfo else parsed.replace(tzinfo=zone)).timestamp() * 1000)
    return epoch_ms(value)


def with_offset(text: str, zone: ZoneInfo) -> str:
    """`2026-07-20T12:00:00+02:00`, the form of calendar events."""
    return datetime.fromisoformat(text).astimezone(zone).isoformat(timespec="seconds")


def without_zone(text: str, zone: ZoneInfo) -> str:
    """`2021-07-16 11:00:00` in the location's time, the form of a contact's appointments."""
    return datetime.fromisoformat(text).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def is_ambiguous(ms: int, zone: ZoneInfo) -> bool:
    """Whether this instant's local time names two instants (the hour that a clock change repeats)."""
    local = datetime.fromtimestamp(ms / 1000, zone)
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
