"""How fast somebody may guess. Pure: `now` is an argument, in seconds of a monotonic clock."""

import ipaddress
from collections import OrderedDict, deque

FREE, LONGEST = 4, 300.0
"""So many failures in a row cost an address nothing; then each doubles its wait, up to so many seconds."""

FORGOTTEN_AFTER = 900.0
"""Seconds without a failure after which an address begins anew."""

TOGETHER, MINUTE = 30, 60.0
"""Failures of all addresses together in one minute: guesses from many machines are slowed, too."""

MOST_ADDRESSES = 1000


class Slowdown:
    """Failed attempts, by address and, unless `together` is None, in all. Forgets the oldest first: it never grows."""

    def __init__(self, together: int | None = TOGETHER) -> None:
        self._by_address: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._together = together
        self._all: deque[float] = deque(maxlen=together or 0)

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0: now."""
        failures, at = self._by_address.get(_key(address), (0, now))
        own = 0.0
        if failures > FREE and now - at < FORGOTTEN_AFTER:
            own = at + min(LONGEST, 2.0 ** (failures - FREE - 1)) - now
        all_ = self._all[0] + MINUTE - now if self._together and len(self._all) == self._together else 0.0
        return max(0.0, own, all_)

    def failed(self, address: str, now: float) -> None:
        """An attempt was wrong."""
        failures, at = self._by_address.pop(_key(address), (0, now))
        self._by_address[_key(address)] = (failures + 1 if now - at < FORGOTTEN_AFTER else 1, now)
        if len(self._by_address) > MOST_ADDRESSES:
            self._by_address.popitem(last=False)
        self._all.append(now)

    def succeeded(self, address: str) -> None:
        """An attempt was right: what was wrong before were slips."""
        self._by_address.pop(_key(address), None)


def _key(address: str) -> str:
    """One machine has a whole network of IPv6 addresses to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return address
