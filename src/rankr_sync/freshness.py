"""What freshness is achieved, and what may be expected: pure arithmetic over counts. No clock, no store."""

import math
from datetime import timedelta


def within_seconds(delay: timedelta) -> int:
    """The class of a detection delay: the next of 1, 2, 3, 4, 5, 6, 8, 10 ... seconds, a fifth apart."""
    seconds = max(delay.total_seconds(), 1.0)
    return math.ceil(2 ** (math.ceil(4 * math.log2(seconds)) / 4))
