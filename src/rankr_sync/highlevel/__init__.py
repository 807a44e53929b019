"""The source: HighLevel's API 2.0 over HTTP. `client` sends, `pacer` lets through, `answers` understands,
`credentials` say with which token, `oauth` gets such tokens.

What is asked and how payloads are read is the streams' business.
"""

from rankr_sync.highlevel.client import HighLevel, Patience, Timeouts, make_client
from rankr_sync.highlevel.credentials import Credentials, PrivateToken, TokenFile
from rankr_sync.highlevel.pacer import Pacer

__all__ = ["Credentials", "HighLevel", "Pacer", "Patience", "PrivateToken", "Timeouts", "TokenFile", "make_client"]
