"""Read the body of a request within limits of size, memory and time, and take the images out of it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import parse_json
from jaxdino.core.words import printable
from jaxdino.serving.server.refusal import Refusal, busy
from jaxdino.serving.server.settings import MIB, ServeSettings

Files = list[tuple[str, bytes]]
"""(name for the answer, bytes) of uploaded images."""
FIELDS = ("images", "image", "files", "file")
"""Names of the parts of a form that are images."""
MOST_HEADER = 16_384  # bytes of the headers of a part
LONG_NAME = 100
JSON_BYTES = 64 * 1024


class Bodies:
    """Read bodies, and bound the memory that all of them take together."""

    def __init__(self, settings: ServeSettings):
        self.settings, self.held = settings, 0

    async def read(self, receive: Callable[[], Awaitable[Any]], declared: str | None) -> bytes:
        """Return the whole body; `release` its length afterwards.

        Args:
          declared: the header Content-Length.

        Raises:
          Refusal: 413 for a body above the limit, before it is read if it is declared; 408 if it does not arrive in
            time; 503 if there is no memory for it; 400 if the client ended the connection.
        """
        if declared is not None and declared.isdigit() and int(declared) > self.settings.max_body:
            raise self._too_large()
        whole = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_timeout):
                while await self._more(receive, whole):
                    pass
        except BaseException as err:
            self.release(len(whole))
            if not isinstance(err, TimeoutError):
                raise
            limit = f"{self.settings.body_timeout:g} seconds"
            raise Refusal(408, "slow", f"the body did not arrive within {limit}", close=True) from None
        return bytes(whole)

    async def _more(self, receive: Callable[[], Awaitable[Any]], whole: bytearray) -> bool:
        """Append the next part of a body; return whether there are more."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "disconnected", "the client ended the connection")
        part = message.get("body", b"")
        self.hold(len(part))
        whole += part
        if len(whole) > self.settings.max_body:
            raise self._too_large()
        return bool(message.get("more_body"))

    def hold(self, count: int) -> None:
        """Count bytes as held, until `release`. Raises Refusal: 503 if there is no memory for them."""
        if self.held + count > self.settings.max_memory_mb * MIB:
            raise busy("the server holds as many bodies as it has memory for: try again", close=True)
        self.held += count

    def release(self, count: int) -> None:
        """Give the memory of a body back."""
        self.held -= count

    def _too_large(self) -> Refusal:
        limit = f"{self.settings.max_body_mb:g} MiB"
        return Refusal(
            413, "body_too_large", f"the body has more than {limit}: send fewer or smaller images", close=True
        )


def files_of(kind: str, body: bytes, most: int) -> Files:
    """Return the images of a body.

    Args:
      kind: the header Content-Type. most: largest number of images.

    Raises:
      Refusal: 415 for another type, 400 for a form that cannot be read, 413 for too many images, 422 without any.
    """
    media, options = parse_options_header(kind)
    if media == b"multipart/form-data":
        found = _form(options.get(b"boundary", b""), body, most)
    elif media.startswith(b"image/") or media == b"application/octet-stream":
        found = [("image", body)] if body else []
    else:
        shown = printable(kind, keep="")[:80] or "missing"
        raise Refusal(
            415,
            "wrong_type",
            f"Content-Type is {shown}: send multipart/form-data with a part `images` for each image, or one image as "
            "image/jpeg, image/png or application/octet-stream",
        )
    if not found:
        raise Refusal(422, "no_image", "there is no image in the request: curl -F images=@photo.jpg sends one")
    return found


def _form(boundary: bytes, body: bytes, most: int) -> Files:
    if not boundary:
        raise Refusal(400, "bad_form", "the form has no boundary in its Content-Type")
    parts = _Parts(most)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as err:
        raise Refusal(400, "bad_form", f"the form cannot be read: {printable(str(err), keep='')[:200]}") from None
    if not parts.ended:
        raise Refusal(400, "bad_form", "the form is cut off: its last boundary is missing")
    return parts.files


class _Parts:
    """Collect the parts of a form, in memory."""

    def __init__(self, most: int):
        self.most, self.files, self.ended = most, [], False
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value, self._spent = b"", b"", 0
        self._data: list[bytes] = []

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._finish,
            "on_header_field": lambda data, start, end: self._header("_field", data[start:end]),
            "on_header_value": lambda data, start, end: self._header("_value", data[start:end]),
            "on_header_end": self._header_end,
            "on_end": lambda: setattr(self, "ended", True),
        }

    def _begin(self) -> None:
        if len(self.files) >= self.most:
            raise Refusal(413, "too_many_images", f"there are more than {self.most} images: send several requests")
        self._headers, self._data, self._spent = {}, [], 0

    def _header(self, name: str, more: bytes) -> None:
        self._spent += len(more)
        if self._spent > MOST_HEADER:
            raise Refusal(400, "bad_form", "the header of a part is too long")
        setattr(self, name, getattr(self, name) + more)

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _finish(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in FIELDS:
            raise Refusal(400, "bad_form", f"the form has a part {name[:80]!r}: images are parts named `images`")
        given = options.get(b"filename", b"").decode("utf-8", "replace")
        self.files.append((shown_name(given) or f"image {len(self.files) + 1}", b"".join(self._data)))


def shown_name(given: str) -> str:
    """Return the last part of a client's file name, for the answer alone; it is never used as a path."""
    return printable(os.path.basename(given.replace("\\", "/")), keep="")[:LONG_NAME]


def urls_of(body: bytes, most: int) -> list[str]:
    """Return the addresses in a JSON body {"urls": [...]}. Raises Refusal for another form."""
    try:
        found = parse_json(body, "the body", dict, max_bytes=JSON_BYTES)
    except UserError as err:
        raise Refusal(400, "bad_json", str(err)) from None
    urls = found.get("urls")
    if set(found) != {"urls"} or not isinstance(urls, list) or not urls or not all(isinstance(u, str) for u in urls):
        raise Refusal(400, "bad_json", 'the body must be {"urls": ["https://...", ...]}')
    if len(urls) > most:
        raise Refusal(413, "too_many_images", f"there are more than {most} images: send several requests")
    return urls
