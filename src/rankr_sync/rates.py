"""How often a contact's children change, learned from the visits themselves. Pure: no clock, no store.

Changes come to a contact like calls to a telephone: at random, at a rate of its own, and most contacts are
quiet. What visits saw of one contact (`Evidence`) is weighed against what is usual at its location and stream
(`Prior`): so many in a hundred contacts of each rate. The rate to plan with is the mean of what remains
likely. Rates are changes a day.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

KINDS = tuple(float(f"{10 ** (step / 4):.4g}") for step in range(-12, 13))
"""The rates that a prior tells apart: from one change in three years to a thousand a day, in 24 equal steps."""

STEP = 2**0.25
"""Rates are kept in steps of a fifth: contacts of one step can be told apart by the time since their visit alone."""

HALF_LIFE = 60.0
"""Days after which what was seen counts half."""

SHAPE, USUAL = 0.3, 1 / 30
"""The prior before anything is known: Gamma with this shape and mean. Most contacts quiet, a few not."""

HISTORY_DAYS, DATED_SHARE = 90.0, 0.5

ARRIVAL_DAYS = 1 / 24
"""What is made within an hour of its contact came with it (an import, a form), and tells nothing of later changes."""

_PSEUDO_CONTACTS = 50.0
"""The prior that we begin with weighs as much as so many contacts when a location's own is fitted."""

_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Evidence:
    """What visits saw of one contact: so many changes in so many days, what is older counting less."""

    changes: float = 0.0
    days: float = 0.0

    def after(self, days: float, changes: int) -> "Evidence":
        """With one more visit, `days` after the one before, that found `changes`."""
        fading = 0.5 ** (days / HALF_LIFE)
        return Evidence(self.changes * fading + changes, self.days * fading + days)


GRAINS = ((1.0, 0.01), (10.0, 0.1), (math.inf, 1.0))
"""Below so many days evidence is told apart by so much, for `fit`: one change in an hour is not one in a day."""


def rounded(evidence: Evidence) -> Evidence:
    """Much the same evidence, so that a few hundred kinds of it stand for all contacts. Never of no time at all."""
    grain = next(grain for below, grain in GRAINS if evidence.days < below)
    return Evidence(float(round(evidence.changes)), max(round(evidence.days / grain) * grain, GRAINS[0][1]))


def from_history(dated: int, days: float = HISTORY_DAYS) -> Evidence:
    """What the first visit of a contact tells: so many records with a date of the last `days`.

    Edits and deletions leave no date, so that half of the changes are taken to be seen.
    """
    return Evidence(float(dated), days * DATED_SHARE)


@dataclass(frozen=True, slots=True)
class Prior:
    """How many of a location's contacts are of each of the `KINDS`; the shares add up to one."""

    shares: tuple[float, ...]

    def rate(self, evidence: Evidence) -> float:
        """The rate to expect of a contact with this evidence, in changes a day, rounded to a step."""
        return step_of(mean_rate(self.shares, round(evidence.changes, 2), round(evidence.days, 2)))

    def mean(self) -> float:
        """The rate to expect of a contact of which nothing was seen."""
        return sum(share * rate for share, rate in zip(self.shares, KINDS, strict=True))


def gamma(shape: float = SHAPE, mean: float = USUAL) -> Prior:
    """A Gamma distribution of this shape and mean, told by its shares of each kind."""
    return Prior(_to_one(rate**shape * math.exp(-rate * shape / mean) for rate in KINDS))


def fit(seen: Iterable[tuple[Evidence, int]], start: Prior) -> Prior:
    """The prior under which it is most likely that so many contacts showed this evidence.

    `seen`: evidence and the number of contacts with it. Expectation maximisation, with `start` as if it had
    been seen in a few contacts too. (Laird 1978: nonparametric maximum likelihood of a mixing distribution.)
    """
    groups = [(_likelihoods(evidence.changes, evidence.days), count) for evidence, count in seen if count > 0]
    shares = start.shares
    for _ in range(_ROUNDS):
        counts = [share * _PSEUDO_CONTACTS for share in start.shares]
        for likelihoods, count in groups:
            weights = [share * likelihood for share, likelihood in zip(shares, likelihoods, strict=True)]
            scale = count / sum(weights)
            for kind, weight in enumerate(weights):
                counts[kind] += weight * scale
        shares = _to_one(counts)
    return Prior(shares)


def step_of(rate: float) -> float:
    """The step nearest to `rate`, with four digits: the same number on every machine, so that it can be looked up."""
    return float(f"{STEP ** round(math.log(rate, STEP)):.4g}")


@lru_cache(maxsize=65_536)
def mean_rate(shares: tuple[float, ...], changes: float, days: float) -> float:
    """The mean of the rates that remain likely."""
    weights = [share * likelihood for share, likelihood in zip(shares, _likelihoods(changes, days), strict=True)]
    return sum(weight * rate for weight, rate in zip(weights, KINDS, strict=True)) / sum(weights)


def _likelihoods(changes: float, days: float) -> list[float]:
    """How likely so many changes in so many days are at each rate, the likeliest being one (Poisson)."""
    logs = [changes * math.log(rate) - rate * days for rate in KINDS]
    most = max(logs)
    # None is quite impossible: a share must not be lost to rounding.
    return [max(math.exp(value - most), 1e-30) for value in logs]


def _to_one(values: Iterable[float]) -> tuple[float, ...]:
    known = [max(value, 1e-12) for value in values]
    total = sum(known)
    return tuple(value / total for value in known)
