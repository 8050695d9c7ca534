"""Tell somebody: run a command with the alert as JSON on its standard input, or send it to a web hook."""

import json
import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import finite

SECONDS = 30.0


class Alerts:
    """Send alerts.

    Args:
      command: split like a shell does, and run without one. webhook: an http or https address.
      say: writes a line of the log.

    Raises:
      UserError: for a command that does not exist, and another kind of address.
    """

    def __init__(self, command: str, webhook: str, say: Callable[..., None]):
        try:
            self.command, self.webhook, self.say = shlex.split(command), webhook, say
        except ValueError as err:
            raise UserError(f"--alert_command {command!r} cannot be read: {err}") from None
        if self.command and shutil.which(self.command[0]) is None:
            raise UserError(f"--alert_command {command!r}: there is no program {self.command[0]!r}")
        if webhook and (urlsplit(webhook).scheme not in ("http", "https") or not urlsplit(webhook).hostname):
            raise UserError(f"--alert_webhook {webhook!r} is not an address like https://HOST/PATH")

    def send(self, alert: Mapping[str, Any]) -> None:
        """Log an alert, and give it to the command and the web hook; what fails is logged."""
        self.say(
            alert["event"],
            level="warning" if alert.get("alarm") else "info",
            **{k: v for k, v in alert.items() if k != "event"},
        )
        body = json.dumps(finite(dict(alert))).encode() + b"\n"  # a program may append it to a file
        for name, given, how in (("command", self.command, self._run), ("webhook", self.webhook, self._post)):
            if not given:
                continue
            try:
                how(body)
            except (OSError, subprocess.SubprocessError, ValueError) as err:
                self.say(f"alert {name} failed", level="error", why=str(err)[:500])

    def _run(self, body: bytes) -> None:
        subprocess.run(self.command, input=body, timeout=SECONDS, check=True, stdout=subprocess.DEVNULL)

    def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "jaxdino"}
        request = urllib.request.Request(self.webhook, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS):
            return
