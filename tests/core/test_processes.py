"""Processes of one run, as threads here: the roll call, exchanges, losses, errors; places from flags and clusters."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxdino.core import processes
from jaxdino.core.errors import UserError
from jaxdino.core.processes import group, place, roll_call
from jaxdino.core.processes.group import LOST, Group
from jaxdino.core.processes.place import Place, find
from jaxdino.core.processes.roll_call import meet
from launch.local import free_port

FACTS = {"config.seed": "0", "jax": "0.10"}


def all_meet(count, facts=lambda index: FACTS, absent=(), wait=5.0, indices=None, counts=None):
    """Return what `meet` returned or raised in each process."""
    port = free_port()

    def one(index, mine):
        try:
            return meet(Place(f"127.0.0.1:{port}", (counts or {}).get(index, count), mine), facts(index), wait)
        except UserError as err:
            return err

    with ThreadPoolExecutor(count) as pool:
        who = [(i, i if indices is None else indices[i]) for i in range(count) if i not in absent]
        return list(pool.map(lambda pair: one(*pair), who))


@pytest.fixture
def three(monkeypatch, capfd):
    """Three processes, and the exit statuses of those that left."""
    monkeypatch.setattr(group, "GRACE", 0.3)
    left = {}
    met = all_meet(3)
    groups = [
        Group(i, names, links, 1.0, lambda status, i=i: left.setdefault(i, status))
        for i, (names, links) in enumerate(met)
    ]
    yield groups, left
    for one in groups:
        one._ending = True  # the first to close is not lost
    for one in groups:
        one.close()


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true()


def test_values_reach_all_processes_in_order(three):
    groups, left = three
    with ThreadPoolExecutor(3) as pool:
        for turn in range(20):
            found = list(pool.map(lambda one, turn=turn: one.exchange("turn", [one.index, turn]), groups))
            assert found == [[[0, turn], [1, turn], [2, turn]]] * 3
    time.sleep(2.5)  # longer than they may be silent: they send beats
    assert not left
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(Group.end, groups))
    for one in groups:
        one.close()
    time.sleep(1.5)
    assert not left


def test_processes_that_went_apart_are_told_so(three):
    groups, _ = three
    with ThreadPoolExecutor(3) as pool:
        for found in [pool.submit(one.exchange, "stop" if one.index < 2 else "save", 1) for one in groups]:
            with pytest.raises(UserError, match=r"process 2 \(.*\) is at 'save', process 0 at 'stop'"):
                found.result()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_ends_without_a_word_is_named_by_the_others(three, capfd, lost):
    groups, left = three
    groups[lost].close()
    until(lambda: len(left) == 2)
    assert left == dict.fromkeys({0, 1, 2} - {lost}, LOST)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all(
        f"process {lost} (" in line and "has ended without a message" in line for line in lines
    )
    assert all("the same launch goes on from the last checkpoint" in line for line in lines)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_process_that_is_silent_is_named_by_the_others(three, capfd, monkeypatch, lost):
    groups, left = three
    for link in groups[lost]._links.values():
        monkeypatch.setattr(link, "send", lambda message: True)
    others = {0, 1, 2} - {lost}
    until(lambda: others <= left.keys())
    assert {left[i] for i in others} == {LOST}
    assert f"process {lost} (" in capfd.readouterr().err.splitlines()[0]


def test_an_error_of_one_process_is_told_by_all(three, capfd):
    groups, left = three
    assert not groups[1].fail("the disk is full", 2)
    until(lambda: len(left) == 2)
    assert left == {0: 2, 2: 2}
    assert capfd.readouterr().err.count("ended with an error: the disk is full") == 2


def test_the_same_error_is_printed_by_the_first_process_alone(three):
    groups, left = three
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda one: one.fail("no such folder", 2), groups)) == [False, True, True]
    assert not left


def test_a_process_that_does_not_come_is_named():
    begin = time.monotonic()
    found = all_meet(4, absent=(1, 3), wait=1.0)
    assert time.monotonic() - begin < 5
    assert all("process 1, 3 of 4 did not come within 1 s (--wait)" in str(err) for err in found)
    (alone,) = all_meet(2, absent=(0,), wait=0.5)
    assert "process 1 of 2 did not reach process 0 at --coordinator=127.0.0.1" in str(alone)


def test_who_is_awaited_is_named_long_before_the_error(monkeypatch, capfd):
    monkeypatch.setattr(roll_call, "FIRST_WORD", 0.2)
    monkeypatch.setattr(roll_call, "NEXT_WORD", 0.4)
    all_meet(4, absent=(1, 3), wait=0.9)
    all_meet(2, absent=(0,), wait=0.5)
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("waiting for process 1, 3 of 4 at 127.0.0.1:")]) == 2
    assert len([line for line in said if line.startswith("waiting for process 0 at 127.0.0.1:")]) == 1
    assert said[0].endswith("0 s of 0.9 s (--wait)")


def test_what_differs_is_named_with_its_process():
    found = all_meet(2, lambda index: FACTS | {"config.seed": str(index)})
    assert all("started differently from process 0: config.seed is 1, in process 0 0." in str(err) for err in found)


def test_two_processes_of_one_number_and_other_counts_are_named():
    found = all_meet(3, indices={0: 0, 1: 1, 2: 1})
    assert all("two processes are number 1: process 1 (" in str(err) for err in found)
    found = all_meet(2, counts={1: 3})
    assert all("was started as one of 3 processes, process 0 as one of 2" in str(err) for err in found)


def test_a_stranger_at_the_port_is_ignored_and_a_used_port_is_named():
    port = free_port()
    waiting = threading.Thread(target=lambda: met.append(meet(Place(f"127.0.0.1:{port}", 2, 0), FACTS, 5)))
    met = []
    waiting.start()
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        names, links = meet(Place(f"127.0.0.1:{port}", 2, 1), FACTS, 5)
    waiting.join()
    assert met[0][0] == names and len(names) == 2
    for link in (links[0], met[0][1][1]):
        link.close()
    with socket.create_server(("127.0.0.1", 0)) as used, pytest.raises(UserError, match="cannot listen on port"):
        meet(Place(f"127.0.0.1:{used.getsockname()[1]}", 2, 0), FACTS, 1)


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_places_of_clusters(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "x")  # JAX reads the environment itself
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    found = find(variables=SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert (found.count, found.index, found.devices, found.found_by) == (4, 2, (0, 1), "Slurm")
    assert found.coordinator.startswith("node3:")
    assert find(variables=SLURM | {"CUDA_VISIBLE_DEVICES": "5"}).devices is None  # bound to one each
    assert find(variables=SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find(variables={name: one for name, one in SLURM.items() if "STEP" not in name}) is None  # a shell
    assert find(count=1, variables=SLURM) is None
    assert find("a:1", variables=SLURM) == Place("a:1", 4, 2, None, "the flags and Slurm")
    mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    assert find("a:1", variables=mpi).index == 1
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    assert find("a:1", 2, variables=pod) == Place("a:1", 2, 1, None, "the flags and Kubernetes")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(coordinator="node"), "is not HOST:PORT"),
        (dict(coordinator="a:1", count=2, index=2), "numbered from 0 to 1"),
        (dict(coordinator="a:1", count=0), "at least 1"),
        (dict(coordinator="a:1", count=2), "--process_id is missing"),
        (dict(count=2, index=0), "--coordinator is missing"),
        (
            dict(variables={"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}),
            "Open MPI job, but its coordinator",
        ),
    ],
)
def test_wrong_places_are_named(given, words, monkeypatch):
    monkeypatch.setattr(place, "_asked", lambda: (None, None, None))
    with pytest.raises(UserError, match=words):
        find(**{"variables": {}} | given)


def test_without_others_nothing_waits():
    assert find(variables={}) is None
    assert processes.chief() and processes.count() == 1
    assert processes.exchange("x", 3) == [3] and processes.any_of("x", True)
