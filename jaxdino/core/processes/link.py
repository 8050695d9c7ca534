"""A connection between two processes of a run: messages as lines of JSON."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json

LONGEST = 16 << 20  # bytes of a message
SENDING = 10  # seconds after which a process that does not read its messages is taken to be gone
Message = dict[str, Any]


class Link:
    """Messages to and from one other process.

    Args:
      sock: connected. name: of the other process, in words.
    """

    def __init__(self, sock: socket.socket, name: str = ""):
        self.name = name
        self._sock, self._lock = sock, threading.Lock()
        self._stream = sock.makefile("rb")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SENDING, 0))

    def send(self, message: Message) -> bool:
        """Send a message; return False if the other process is gone.

        Raises:
          UserError: for a message that is too long.
        """
        line = json.dumps(message).encode() + b"\n"
        if len(line) > LONGEST:
            raise UserError(f"a message between processes has {len(line)} bytes, more than {LONGEST}")
        if not self._lock.acquire(timeout=SENDING):
            return False
        try:
            self._sock.sendall(line)
        except OSError:
            return False
        finally:
            self._lock.release()
        return True

    def receive(self, seconds: float | None = None) -> Message | None:
        """Return the next message; None at the end of the connection, after so many seconds, or for no JSON."""
        try:
            self._sock.settimeout(seconds)
            line = self._stream.readline(LONGEST)
            return parse_json(line, "the message", dict) if line.endswith(b"\n") else None
        except (OSError, ValueError, JsonError):
            return None

    def messages(self) -> Iterator[Message]:
        """Yield messages until the other process is gone."""
        while (message := self.receive()) is not None:
            yield message

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # ends a `receive` in another thread
        with contextlib.suppress(OSError):
            self._stream.close()
        with contextlib.suppress(OSError):
            self._sock.close()
