"""OAuth 2.0: `keys` (what tokens are sealed with), `shelf` (where they are kept), `keeper` (when they are refreshed),
`login` and `callback` (how a person lets the app in), `grants` (what there is, for people).

What is sent is in `highlevel.oauth`, the table's statements are in `store.grants`.
"""

from rankr_sync.oauth.keeper import Keeper, LocationGrant
from rankr_sync.oauth.shelf import Grant, Shelf

__all__ = ["Grant", "Keeper", "LocationGrant", "Shelf"]
