"""The processes of a run while it runs: they exchange values, and notice when one of them is gone.

Process 0 is connected to all others. A thread in each process sends a beat every few seconds. When a process ends,
fails or falls silent, process 0 tells the others, and each prints one line and ends: a collective operation on the
devices would wait for the missing one, for ever on a GPU.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.processes.link import Link, Message

LOST = 75
"""Exit status (EX_TEMPFAIL) after another process was lost: the same launch goes on from the last checkpoint."""
GRACE = 3.0
"""Seconds for a process to report an error of its own, before that of another ends it."""
ENDED = "has ended without a message: it was killed, or its machine is gone"
GOES_ON = "; the same launch goes on from the last checkpoint"
REASONS = 2000  # characters of another process's error


class Group:
    """The processes of a run, seen from one of them.

    Attributes:
      index: number of this process. names: all processes in words.

    Args:
      links: process 0: {index: link to it} of all others; else {0: link to process 0}.
      wait: seconds of silence after which a process is lost.
      leave: called with the exit status to end this process at once.
    """

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        links: Mapping[int, Link],
        wait: float,
        leave: Callable[[int], Any] = os._exit,
    ):
        self.index, self.names, self.wait = index, list(names), wait
        self._links, self._leave, self._beat = dict(links), leave, min(2.0, wait / 5)
        self._changed, self._quitting = threading.Condition(), threading.Lock()
        self._turn, self._ending, self._told = 0, False, False
        self._given: dict[int, dict[int, Message]] = {}
        self._answers: dict[int, Message] = {}
        self._failed: dict[int, tuple[str, int]] = {}
        self._left: set[int] = set()
        self._gone: set[int] = set()
        self._heard = {index: time.monotonic() for index in self._links}
        for index, link in self._links.items():
            threading.Thread(target=self._listen, args=(index, link), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def count(self) -> int:
        """Return the number of processes."""
        return len(self.names)

    def exchange(self, name: str, value: Any) -> list[Any]:
        """Return the values of all processes, which must all call this, in the same order.

        Args:
          name: what is exchanged. value: whatever JSON can hold.

        Raises:
          UserError: if another process exchanges something else.
        """
        self._turn += 1
        turn = self._turn
        if self.index:
            self._links[0].send({"turn": turn, "name": name, "value": value})
            answer = self._wait_for(lambda: self._answers.pop(turn, None))
        else:
            given = self._wait_for(lambda: self._all_given(turn)) | {0: {"name": name, "value": value}}
            self._given.pop(turn, None)
            answer = self._answer(name, given)
            for link in self._links.values():
                link.send({"answer": turn} | answer)
        if "apart" in answer:
            raise UserError(answer["apart"])
        return answer["values"]

    def _all_given(self, turn: int) -> dict[int, Message] | None:
        given = self._given.get(turn, {})
        return given if len(given) == len(self._links) else None

    def _answer(self, name: str, given: Mapping[int, Message]) -> Message:
        for index, message in given.items():
            if message["name"] != name:
                return {"apart": f"{self.names[index]} is at {message['name']!r}, process 0 at {name!r}: report this"}
        return {"values": [given[index]["value"] for index in range(self.count)]}

    def _wait_for(self, found: Callable[[], Any]) -> Any:
        """Wait until the function returns something; the watch ends this process if a process is lost meanwhile."""
        with self._changed:
            while (one := found()) is None:
                self._changed.wait(1)  # in parts, so that Ctrl-C is heard
            return one

    def fail(self, reason: str, status: int) -> bool:
        """Tell the others that this process ends with an error.

        Returns:
          whether process 0 has ended with the same error, and so has printed it.
        """
        self._ending = True
        for link in self._links.values():
            link.send({"failed": reason[:REASONS], "status": status})
        if not self.index:
            return False
        end = time.monotonic() + GRACE
        with self._changed:
            while not self._failed and not self._told and time.monotonic() < end:
                self._changed.wait(0.2)
        return any(known == reason[:REASONS] for known, _ in self._failed.values())

    def linger(self) -> None:
        """Let process 0 outlive the others, which JAX would abort with a page of log if its service ended first."""
        end = time.monotonic() + 2 * GRACE
        with self._changed:
            while not self.index and len(self._gone) < len(self._links) and time.monotonic() < end:
                self._changed.wait(0.2)

    def settle(self) -> None:
        """Give the watch time to find out which process was lost, after a collective operation has failed."""
        time.sleep(self.wait + GRACE)

    def end(self) -> None:
        """Wait for all processes at the run's end; from here on, one that ends is not lost."""
        self.exchange("the end of the run", None)
        self._ending = True
        for link in self._links.values():
            link.send({"left": True})

    def close(self) -> None:
        """Close all connections."""
        self._ending = True
        for link in self._links.values():
            link.close()

    def _listen(self, index: int, link: Link) -> None:
        for message in link.messages():
            self._heard[index] = time.monotonic()
            with self._changed:
                self._take(index, message)
                self._changed.notify_all()
        with self._changed:
            self._gone.add(index)
            self._changed.notify_all()
        if index not in self._left and index not in self._failed:
            self._lose(f"{self.names[index]} {ENDED}")

    def _take(self, index: int, message: Message) -> None:
        if "turn" in message:
            self._given.setdefault(message["turn"], {})[index] = message
        elif "answer" in message:
            self._answers[message["answer"]] = message
        elif "failed" in message:
            self._failed[index] = (message["failed"], message["status"])
            threading.Thread(target=self._follow, args=(index,), daemon=True).start()
        elif "lost" in message:
            self._told = True
            self._quit(message["lost"], message["status"])
        elif "left" in message:
            self._left.add(index)

    def _follow(self, index: int) -> None:
        """End this process too, after another one's error, unless it reports one of its own."""
        time.sleep(GRACE)
        reason, status = self._failed[index]
        self._lose(f"{self.names[index]} ended with an error: {reason}", status)

    def _watch(self) -> None:
        """Send beats, and look for processes that are silent."""
        before = time.monotonic()
        while not self._ending:
            time.sleep(self._beat)
            now = time.monotonic()
            if now - before > max(self.wait / 2, 3 * self._beat):  # this process itself stood still
                self._heard = dict.fromkeys(self._heard, now)
            before = now
            for link in self._links.values():
                link.send({"beat": True})
            silent = [index for index, heard in self._heard.items() if now - heard > self.wait]
            if silent and silent[0] not in self._left:
                self._gone.update(silent)
                self._lose(
                    f"{self.names[silent[0]]} has not answered for {self.wait:g} s: it was stopped, or its machine or "
                    "network is gone"
                )

    def _lose(self, line: str, status: int = LOST) -> None:
        """Tell the others, and end this process."""
        if self._ending:
            return
        for link in self._links.values():
            link.send({"lost": line, "status": status})
        self._quit(line, status)

    def _quit(self, line: str, status: int) -> None:
        """End this process, with one line: several threads may notice a loss at once."""
        if self._ending or not self._quitting.acquire(blocking=False):
            return
        self._ending = True
        more = GOES_ON if status == LOST else ""
        sys.stdout.flush()
        text = f"error: {line}{more}\n" if self.index == 0 else f"error: process {self.index} ends: {line}{more}\n"
        os.write(2, text.encode(errors="replace"))
        self.linger()
        self._leave(status)
