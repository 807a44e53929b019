"""The part of an account that is mirrored: the contacts with one of some tags, or of one of some businesses. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from rankr_sync.model import JsonObject


@dataclass(frozen=True, slots=True)
class Part:
    """Which contacts are mirrored, with all that belongs to them; all of them where nothing is named.

    Tags are compared in any case: the CRM keeps them in lower case, people write them as they like.
    """

    tags: frozenset[str] = frozenset()
    businesses: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tags: Iterable[str], businesses: Iterable[str]) -> "Part":
        """The part that these words name."""
        return cls(frozenset(tag.strip().casefold() for tag in tags), frozenset(businesses))

    @property
    def is_whole(self) -> bool:
        """Whether everything is mirrored."""
        return not self.tags and not self.businesses

    def holds(self, tags: Iterable[str], business: object) -> bool:
        """Whether a contact with these tags, of this business, is of the part."""
        if self.is_whole or business in self.businesses:
            return True
        return any(tag.strip().casefold() in self.tags for tag in tags)

    def document(self) -> JsonObject:
        """The same as JSON, to be kept and compared."""
        return {"tags": sorted(self.tags), "businesses": sorted(self.businesses)}


WHOLE = Part()
