"""How moments, numbers and values are said on the page. Pure: `now` is an argument."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo


def clock(moment: datetime, zone: str = "UTC") -> str:
    """`14:30 UTC`."""
    return moment.astimezone(ZoneInfo(zone)).strftime("%H:%M %Z")


def moment(then: datetime, zone: str = "UTC") -> str:
    """`Tue 1 Sep 2026, 14:30`, as the clocks of that zone show it."""
    local = then.astimezone(ZoneInfo(zone))
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M}"


def many(count: int, one: str, more: str | None = None) -> str:
    """`1 record`, `2,500 records`."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def value(content: Any, zone: str = "UTC") -> str:
    """A field's value; nothing that a program would say and a person would not."""
    match content:
        case None:
            return ""
        case bool():
            return "yes" if content else "no"
        case datetime():
            return moment(content, zone)
        case date():
            return f"{content.day} {content:%b %Y}"
        case list() | tuple() if all(isinstance(one, (str, int, float)) for one in content):
            return ", ".join(str(one) for one in content)
        case list() | Mapping():
            return json.dumps(content, ensure_ascii=False, default=str)
        case _:
            return str(content)


def stamp(then: datetime) -> str:
    """For `<time datetime>`."""
    return then.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
