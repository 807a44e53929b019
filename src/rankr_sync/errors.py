"""The tree of errors: every failure is one of four kinds, and says what to do next.

Foreign exceptions are translated into these once, at the edge (`highlevel`, `store`, `config`); the
CLI turns them into one sentence and an exit code. Nothing here imports anything.
"""


class RankrSyncError(Exception):
    """A failure with a sentence for people (`message`) and what to type or do next (`hint`).

    `status` is the HTTP status if there was one, `trace_id` HighLevel's id of the answer (their support
    asks for it). No field ever carries a token or a contact's details.
    """

    exit_code = 1
    requests = 0
    """How many requests were spent before this error went up."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
        self.trace_id = trace_id

    def __str__(self) -> str:
        return f"{self.message} (traceId {self.trace_id})" if self.trace_id else self.message


# -- try later -----------------------------------------------------------------------------------------


class TryLater(RankrSyncError):
    """The same request may work later; `retry_after` is the other side's wish in seconds, if it told one."""

    retry_after: float | None = None


class Throttled(TryLater):
    """HTTP 429: the rate limit was hit, by us or by someone else who uses the same app."""


class QuotaSpent(TryLater):
    """Nothing is left of the day's quota."""


class Unreachable(TryLater):
    """No answer: the connection failed, was cut, or timed out."""


class BadAnswer(TryLater):
    """An answer that is not what the endpoint promises: not JSON, half a body, the wrong envelope, a 5xx."""


class Unauthorised(TryLater):
    """A 401 that has not been confirmed yet: HighLevel sends spurious ones on valid tokens (docs#217)."""


class StoreUnavailable(TryLater):
    """The database cannot be reached, opened or written."""


class LeaseLost(TryLater):
    """Another process has taken the location over; what was not committed is its to do."""


# -- ask the owner -------------------------------------------------------------------------------------


class AskOwner(RankrSyncError):
    """Only a person can help: credentials, permissions, or a word that is needed."""

    exit_code = 3


class TokenRefused(AskOwner):
    """The token is missing, wrong, expired or revoked."""


class GrantMissing(AskOwner):
    """Nobody has logged in by OAuth where that is needed."""


class GrantEnded(AskOwner):
    """An OAuth login is over, and reconnecting did not help: its refresh token is refused as invalid."""


class ScopeMissing(AskOwner):
    """The token is valid but lacks the scope of this endpoint."""


class LocationRefused(AskOwner):
    """The token has no access to this location (403)."""


class PartEmpty(AskOwner):
    """The part of the account that is to be mirrored has none of the contacts that are stored."""

    exit_code = 2


# -- skip this record ----------------------------------------------------------------------------------


class SkipRecord(RankrSyncError):
    """This one record cannot be used; its neighbours can."""


class NotFound(SkipRecord):
    """The record does not exist at the source (404, or the 400 that says so)."""


# -- stop ----------------------------------------------------------------------------------------------


class Interrupted(RankrSyncError):
    """We were asked to end; everything up to here is checkpointed."""

    exit_code = 130


class Stop(RankrSyncError):
    """Going on makes no sense until something is changed."""

    exit_code = 2


class BadConfiguration(Stop):
    """The configuration or the command line is wrong."""


class SchemaTooNew(Stop):
    """The store was written by a newer release than this one."""


class RequestRefused(Stop):
    """The API refuses this request as wrong (400, 422): repeating it cannot help."""

    exit_code = 1


class EndpointGone(RequestRefused):
    """The endpoint does not exist under the configured API version."""
