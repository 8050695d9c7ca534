"""API keys: who may predict, and who may reload models."""

import dataclasses
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from jaxdino.core.errors import UserError

SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class Client:
    """Who sends a request: the name of its key, or its address."""

    name: str
    admin: bool = False


class Keys:
    """The keys of a file; only their hashes are kept.

    Args:
      clients: {SHA-256 of a key: who has it}.
    """

    def __init__(self, clients: Mapping[bytes, Client]):
        self._clients = dict(clients)

    def __bool__(self) -> bool:
        return bool(self._clients)

    def client(self, given: str) -> Client | None:
        """Return who has this key, or None. Takes the same time whatever the key is."""
        found, asked = None, hashlib.sha256(given.encode()).digest()
        for digest, client in self._clients.items():
            if hmac.compare_digest(digest, asked):
                found = client
        return found


def read_keys(file: str) -> Keys:
    """Read `NAME KEY [admin]` lines; "" gives no keys. Empty lines and those that begin with # are left out.

    Raises:
      UserError: for a file that cannot be read or is empty, another form of line, a short key, or one given twice.
    """
    if not file:
        return Keys({})
    try:
        lines = Path(file).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"--api_keys {file} cannot be read: {err}") from None
    clients: dict[bytes, Client] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) not in (2, 3) or words[2:] not in ([], ["admin"]):
            raise UserError(f"--api_keys {file}, line {number}: a line is NAME KEY, or NAME KEY admin")
        if len(words[1]) < SHORTEST:
            raise UserError(f"--api_keys {file}, line {number}: the key has fewer than {SHORTEST} characters")
        digest = hashlib.sha256(words[1].encode()).digest()
        if digest in clients:
            raise UserError(f"--api_keys {file}, line {number}: {clients[digest].name} has the same key")
        clients[digest] = Client(words[0], len(words) == 3)
    if not clients:
        raise UserError(f"--api_keys {file} holds no key: a line is NAME KEY, or NAME KEY admin")
    return Keys(clients)


def key_in(headers: Mapping[str, str]) -> str:
    """Return the key of a request: `X-API-Key: KEY` or `Authorization: Bearer KEY`; "" without one."""
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (bearer.strip() if kind.lower() == "bearer" else "")
