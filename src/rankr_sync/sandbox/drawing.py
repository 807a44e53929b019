"""Drawing from lists and long tails with one seeded source of chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


class Drawing:
    """Base of the makers; the order of draws is part of the result."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of `choices`."""
        return choices[int(self.rng.random() * len(choices))]

    def tail(self, none: float, most: int) -> int:
        """0 with probability `none`, else one or a few, rarely up to `most`."""
        if self.rng.random() < none:
            return 0
        return min(most, int((1.0 - self.rng.random()) ** -0.9))
