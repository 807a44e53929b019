"""How long, in words, for people: the same in a terminal and on a page. Pure: `now` is an argument."""

import math
from datetime import datetime

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def ago(then: datetime | None, now: datetime) -> str:
    """`12 s ago`, `in 2 h`, `never`."""
    if then is None:
        return "never"
    seconds = (now - then).total_seconds()
    return f"{lasting(abs(seconds))} ago" if seconds >= 0 else f"in {lasting(-seconds)}"


def lasting(seconds: float) -> str:
    """A time in its largest sensible unit: `89 s`, `3 min`, `26 h`, `4 d`."""
    for size, unit in _UNITS:
        if seconds >= 2 * size or (unit == "min" and seconds >= 90):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def span(seconds: float) -> str:
    """The largest sensible unit, with a decimal where that is less than ten; `never` where there is no end."""
    if math.isinf(seconds):
        return "never"
    for size, unit in ((2 * 86_400, "d"), (5400, "h"), (90, "min")):
        if seconds >= size:
            value = seconds / {"d": 86_400, "h": 3600, "min": 60}[unit]
            return f"{value:.1f}".removesuffix(".0") + f" {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{seconds:.0f} s"
