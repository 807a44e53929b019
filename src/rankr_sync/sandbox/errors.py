"""The one exception of the sandbox: an answer that is not a success, in the API's own words."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any


class ApiError(Exception):
    """Leaves a handler as `{statusCode, message, error?, ...}` with its status."""

    def __init__(self, status: int, message: str | list[str], **extra: Any) -> None:
        """Keep the status, the message (a list in validation errors) and further keys of the body."""
        super().__init__(status, message)
        self.status = status
        self.body: dict[str, Any] = {"statusCode": status, "message": message, **extra}
        # 400 bodies carry no `error` in the common schemas; 401, 403, 404 and 422 do.
        if status != 400 and "error" not in self.body:
            self.body["error"] = HTTPStatus(status).phrase


def invalid(*messages: str) -> ApiError:
    """422, whose message is a list."""
    return ApiError(422, list(messages), error="Unprocessable Entity")


def bad(message: str, **extra: Any) -> ApiError:
    """400 with one sentence."""
    return ApiError(400, message, **extra)
