"""Answers that are no results: one JSON form, and the status of each reason."""

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request that is not answered with a result.

    Args:
      status: of HTTP. reason: one word for metrics and clients. message: what is wrong and how to fix it.
      retry: seconds after which the client may try again.
      close: whether the rest of the body is not read, so that the connection ends.
    """

    def __init__(self, status: int, reason: str, message: str, retry: int | None = None, close: bool = False):
        super().__init__(message)
        self.status, self.reason, self.message, self.retry, self.close = status, reason, message, retry, close

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        found = {} if self.retry is None else {"Retry-After": str(self.retry)}
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found | ({"Connection": "close"} if self.close else {})

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": self.reason, "message": self.message}


def busy(message: str = "the server has as much to do as it takes: try again", close: bool = False) -> Refusal:
    """Return the refusal of a full server."""
    return Refusal(503, "busy", message, retry=1, close=close)


REASONS: Mapping[int, str] = {
    400: "the body or a parameter cannot be read",
    401: "an API key is needed",
    403: "the API key may not do this",
    404: "there is no such model, version or page",
    405: "the page takes another method",
    408: "the body did not arrive in time",
    409: "the model was not reloaded; the one before is still served",
    413: "the body, the image or their number is too large",
    415: "the body is neither images nor a form of images",
    422: "an image cannot be decoded, or a parameter does not fit the model",
    429: "this client has too many requests at a time",
    503: "the server starts, ends or is full: try again after Retry-After seconds",
}
