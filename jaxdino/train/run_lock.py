"""The lock of a run folder: one process writes there.

`run.lock` is a lease of the library filelock: it names the owner's process, its start time (a process number is used
again) and its host, and is created in a way that is atomic on network file systems too; flock is not used. The owner
renews it every `BEAT` seconds. After `kill -9` the next process on the same host takes the folder at once; one on
another host, which cannot look at that process, takes it when nothing was renewed for `BOUND` seconds by its own
clock. Commands that only read (predict, evaluate, export) do not look at the lock.
"""

import datetime
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import filelock

from jaxdino.core import processes
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json

LOCK, OWNER = "run.lock", "run.lock.json"
BEAT, BOUND = 5.0, 60.0
"""Seconds between renewals, and after which a lock that was not renewed is free. The same in all processes."""


class Taken(UserError):
    """The folder belongs to another process."""


class RunLock:
    """Hold a run folder for this process; of several processes of a run (`core.processes`), the first one does.

    Attributes:
      held: whether the run has the folder. chief: whether this process is the one that writes there.

    Args:
      folder: the run's folder; created by `hold`.
      say: called with a line before a wait.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.folder, self._say = folder, say
        self.held, self._lost = False, ""
        self._lease: filelock.SoftFileLease | None = None
        self.chief = processes.chief()

    def hold(self) -> None:
        """Take the lock.

        Raises:
          Taken: if another process holds it; in all processes of this run.
          UserError: if the folder cannot be written.
        """
        fault = None
        if self.chief:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lease = self._taken()
                host = self._lease.owner.hostname if self._lease.owner else socket.gethostname()
                write_json(self.folder / OWNER, {"pid": os.getpid(), "host": host, "since": _now()})
            except UserError as err:
                fault = err
            except (OSError, RuntimeError, filelock.Timeout) as err:
                fault = UserError(f"{self.folder / LOCK} cannot be written: {getattr(err, 'strerror', None) or err}")
        if processes.any_of("the lock is refused", fault is not None) and fault is None:
            fault = Taken(f"--workdir={self.folder} cannot be used: see the message of the first process")
        if fault:
            self.release()
            raise fault from None
        self.held = True
        self._check_shared()

    def _check_shared(self) -> None:
        """Raise UserError, in all processes, if one cannot see the file that the first one has written."""
        try:
            processes.wait_until_visible(self.folder / OWNER)
        except UserError:
            self.release()
            raise

    def check(self) -> None:
        """Raise Taken if the lock was lost: deleted, or taken over because this process stood still for too long."""
        if self._lost:
            raise Taken(
                f"the lock {self.folder / LOCK} was lost ({self._lost}), and another process may use the folder: "
                "stopped without saving. The same command resumes from the last checkpoint"
            )

    def release(self) -> None:
        """Give the folder back."""
        lease, self._lease, self.held = self._lease, None, False
        if lease is not None and not self._lost:
            (self.folder / OWNER).unlink(missing_ok=True)
        if lease is not None:
            lease.release()

    def _taken(self) -> filelock.SoftFileLease:
        lease = filelock.SoftFileLease(
            self.folder / LOCK,
            lease_duration=BOUND,
            heartbeat_interval=BEAT,
            on_compromise=self._compromised,
            thread_local=False,
        )
        try:
            lease.acquire(timeout=0)
            return lease
        except filelock.Timeout:
            owner = lease.owner
        if owner and owner.hostname.split("?")[0] == socket.gethostname() and _alive(owner.pid):
            raise Taken(self._words(lease))
        self._say(f"{self._words(lease, fix=False)}; waiting up to {BOUND:.0f} s to see whether it still runs")
        mark, began = _renewed(self.folder / LOCK), time.monotonic()
        while time.monotonic() < began + BOUND + 2 * BEAT:
            try:
                lease.acquire(timeout=1, poll_interval=0.2)
                return lease
            except filelock.Timeout:
                if owner and mark != (mark := _renewed(self.folder / LOCK)):
                    break
        raise Taken(self._words(lease))

    def _words(self, lease: filelock.SoftFileLease, fix: bool = True) -> str:
        """Name the owner, its host and since when, and what to do."""
        owner, lock = lease.owner, self.folder / LOCK
        if owner is None:
            who = f"another process, which {lock} does not name"
        else:
            try:
                note = read_json(self.folder / OWNER, dict)
            except JsonError:
                note = {}
            mine = (note.get("pid"), note.get("host")) == (owner.pid, owner.hostname)
            since = f", since {note.get('since')}" if mine else ""
            who = f"process {owner.pid} on {owner.hostname}{since}"
        advice = f": wait for it, stop it, or give another --workdir (delete {lock} only if that is no run)"
        return f"--workdir={self.folder} is used by {who}" + (advice if fix else "")

    def _compromised(self, how: filelock.LeaseCompromise) -> None:
        self._lost = {"marker-missing": "it was deleted", "owner-changed": "another process took it"}.get(
            how.reason, "it could not be renewed"
        )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _renewed(file: Path) -> tuple[int, int] | None:
    """Return what changes whenever the lock is renewed or taken."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(" ", "seconds")
