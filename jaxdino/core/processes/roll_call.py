"""The roll call at a run's start: all processes meet at process 0, and compare what must be equal, in bounded time.

It comes before `jax.distributed.initialize`, which ends a process with an abort and a page of log where one is missing,
and on the same port: nothing else has to be opened.
"""

import os
import socket
import time
from collections.abc import Mapping, Sequence

from jaxdino.core.command import write_error
from jaxdino.core.errors import UserError
from jaxdino.core.processes.link import Link
from jaxdino.core.processes.place import Place

Facts = Mapping[str, str]
SHOWN = 5  # differences in an error
FIRST_WORD, NEXT_WORD = 10.0, 30.0  # seconds until a line says who is awaited, and until the next one


def meet(place: Place, facts: Facts, wait: float) -> tuple[list[str], dict[int, Link]]:
    """Wait until all processes are there; return their names, and the links to them (of process 0) or to process 0.

    Args:
      facts: what must be equal in all of them, {name: value}.
      wait: seconds until a missing process is an error.

    Raises:
      UserError: in all processes, naming those that are missing, that claim the same number, or that differ in a fact.
    """
    me = {"index": place.index, "count": place.count, "host": socket.gethostname(), "pid": os.getpid()}
    if place.index:
        return _report(place, me | {"facts": dict(facts)}, wait)
    links: dict[int, Link] = {}
    try:
        with _listening(place) as server:
            members = _collected(server, place, me | {"facts": dict(facts)}, wait, links)
    except UserError as err:
        for link in links.values():
            link.send({"refused": str(err)})
            link.close()
        raise
    names = [_name(members[index]) for index in range(place.count)]
    for index, link in links.items():
        link.name = names[index]
        link.send({"names": names})
    return names, links


def _name(member: Mapping) -> str:
    return f"process {member['index']} ({member['host']}, pid {member['pid']})"


def _listening(place: Place) -> socket.socket:
    port = place.address[1]
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as err:
        raise UserError(
            f"process 0 cannot listen on port {port} of --coordinator={place.coordinator}: {err.strerror}. Is another "
            "run using it? Give another port"
        ) from None


def _collected(server: socket.socket, place: Place, me: Mapping, wait: float, links: dict[int, Link]) -> dict:
    """Accept the other processes; return {index: what it says about itself}."""
    members, patience = {0: me}, _Patience(wait)
    while len(members) < place.count:
        server.settimeout(patience.pause())
        try:
            link = Link(server.accept()[0])
        except TimeoutError:
            missing = ", ".join(str(index) for index in range(place.count) if index not in members)
            if patience.remains(f"process {missing} of {place.count} at {place.coordinator}"):
                continue
            raise UserError(
                f"process {missing} of {place.count} did not come within {wait:g} s (--wait): was it "
                f"started, and can it reach --coordinator={place.coordinator}?"
            ) from None
        member = link.receive(5) or {}
        index = member.get("index")
        if not isinstance(index, int) or not {"count", "host", "pid", "facts"} <= member.keys():
            link.close()  # not a process of ours
            continue
        twin = members.get(index)
        links[-len(links) - 1 if twin or not 0 < index < place.count else index] = link
        _check(place, member, twin, me["facts"])
        members[index] = member
    return members


class _Patience:
    """The time that is left for those who are missing, with a line now and then that names them."""

    def __init__(self, wait: float):
        self.begin = time.monotonic()
        self.end, self.word = self.begin + wait, self.begin + FIRST_WORD

    def pause(self) -> float:
        """Return the seconds until the next line or the end."""
        return max(min(self.word, self.end) - time.monotonic(), 0.001)

    def remains(self, missing: str) -> bool:
        """Return whether there is time left; print the line if it is due."""
        now = time.monotonic()
        if self.word <= now < self.end:
            self.word = now + NEXT_WORD
            seconds = f"{now - self.begin:.0f} s of {self.end - self.begin:g} s (--wait)"
            write_error(f"waiting for {missing}: {seconds}")
        return now < self.end


def _check(place: Place, member: Mapping, twin: Mapping | None, facts: Facts) -> None:
    if member["count"] != place.count:
        raise UserError(
            f"{_name(member)} was started as one of {member['count']} processes, process 0 as one of {place.count}: "
            "give all the same --num_processes"
        )
    if twin:
        raise UserError(
            f"two processes are number {member['index']}: {_name(twin)} and {_name(member)}. Give each its own "
            "--process_id, and each run its own port in --coordinator"
        )
    if lines := differences(facts, member["facts"]):
        more = f" (and {len(lines) - SHOWN} more)" if len(lines) > SHOWN else ""
        raise UserError(
            f"{_name(member)} was started differently from process 0: {'; '.join(lines[:SHOWN])}{more}. Start all "
            "with the same code, packages and settings"
        )


def differences(first: Facts, other: Facts) -> list[str]:
    """List what differs between the facts of process 0 and those of another process."""
    keys: Sequence[str] = [*first, *(key for key in other if key not in first)]
    return [
        f"{key} is {other.get(key, 'not set')}, in process 0 {first.get(key, 'not set')}"
        for key in keys
        if first.get(key) != other.get(key)
    ]


def _report(place: Place, me: Mapping, wait: float) -> tuple[list[str], dict[int, Link]]:
    """Report to process 0, and return its answer."""
    patience, link, why = _Patience(wait), None, "no answer"
    while link is None and patience.remains(f"process 0 at {place.coordinator}"):
        try:
            link = Link(socket.create_connection(place.address, timeout=min(5, wait)), "process 0")
        except OSError as err:
            why = err.strerror or str(err) or why
            time.sleep(0.1)
    answer = link.receive(max(patience.end - time.monotonic(), 0) + 10) if link and link.send(dict(me)) else None
    if answer is None or link is None:
        if link:
            link.close()
        lost = "it ended" if link else why
        raise UserError(
            f"process {place.index} of {place.count} did not reach process 0 at --coordinator={place.coordinator} "
            f"within {wait:g} s (--wait): {lost}. Was process 0 started, and is this its host and port?"
        )
    if "refused" in answer:
        link.close()
        raise UserError(str(answer["refused"]))
    link.name = answer["names"][0]
    return list(answer["names"]), {0: link}
