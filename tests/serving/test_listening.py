"""The server as a process: slow clients are cut off, SIGTERM loses no request, wrong flags are one line."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from jaxdino import serve
from jaxdino.serving.server import listening, logs
from jaxdino.serving.server.settings import ServeSettings
from tests.serving.served_models import png, save_classifier


def test_wrong_flags_are_errors_before_a_model_is_loaded(tmp_path, capsys):
    (tmp_path / "keys").write_text("name short\n")
    (tmp_path / "config.json").write_text('{"max_bath": 3}')
    cases = {
        (): "give the model to serve",
        ("--model", "a/b=x"): "names are of letters",
        ("--workdir", str(tmp_path), "--max_batch", "12"): "give 8 or 16",
        ("--workdir", str(tmp_path), "--api_keys", str(tmp_path / "keys")): "fewer than 16 characters",
        ("--workdir", str(tmp_path), "--config", str(tmp_path / "config.json")): "max_batch",
        ("--workdir", str(tmp_path / "nowhere"), "--port", "0"): "nowhere",
    }
    for flags, message in cases.items():
        assert serve.main(list(flags)) == 2
        assert message in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert serve.main(["--workdir", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be listened on" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "seconds"), [(0, 0), (0.5, 1), (30, 30)])
def test_no_drain_timeout_waits_for_ever(given, seconds, monkeypatch):
    seen = []
    monkeypatch.setattr(listening._Listener, "run", lambda listener, sockets: seen.append(listener.config))
    served = SimpleNamespace(
        app=None, settings=ServeSettings(drain_timeout=given), catalogue=SimpleNamespace(served={})
    )
    with listening.bound_socket("127.0.0.1", 0) as where:
        listening.listen(served, where)
    assert [config.timeout_graceful_shutdown for config in seen] == [seconds]


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    folder = save_classifier(tmp_path_factory.mktemp("served") / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"workdir": folder, "port": port, "max_batch": 2, "header_timeout": 1, "body_timeout": 1, "drain_delay": 1}
    command = [sys.executable, "-m", "jaxdino.serve", *(f"--{name}={value}" for name, value in flags.items())]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ, text=True)
    for line in started.stderr:
        if '"ready"' in line:
            break
    reading = threading.Thread(target=started.stderr.read, daemon=True)
    reading.start()
    yield started, port
    started.kill()
    started.wait()
    reading.join()
    started.stderr.close()


def post(port, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/predict", body or png(0), {"Content-Type": "image/png"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_slow_senders_of_header_and_body_are_cut_off(process):
    _, port = process
    with socket.create_connection(("127.0.0.1", port), timeout=10) as header:
        header.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        start = time.monotonic()
        assert header.recv(100) == b""
        assert time.monotonic() - start < 5
    with socket.create_connection(("127.0.0.1", port), timeout=10) as body:
        body.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc")
        assert body.recv(100).startswith(b"HTTP/1.1 408 ")
    assert post(port).status == 200


def test_an_idle_connection_is_kept(process):
    """uvicorn's 5 seconds are below the limit of many proxies, which would lose the request that they send then."""
    connection = http.client.HTTPConnection("127.0.0.1", process[1], timeout=30)
    for wait in (0, 6):
        time.sleep(wait)
        connection.request("POST", "/predict", png(0), {"Content-Type": "image/png"})
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
    connection.close()


def test_a_log_that_nobody_reads_stops_nothing(monkeypatch):
    read, gate = [], threading.Event()

    def write(text):
        assert gate.wait(30)
        read.extend(json.loads(line) for line in text.splitlines() if line)

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=write, flush=lambda: None))
    monkeypatch.setattr(logs, "MOST", 10)
    writer, start = logs.Writer(), time.monotonic()
    for number in range(30):
        writer.put(json.dumps({"number": number}))
    assert time.monotonic() - start < 5
    gate.set()
    writer.flush()
    writer.flush()  # the count of what was lost comes with the lines after it
    assert [one["number"] for one in read if "number" in one][:10] == list(range(10))
    assert 0 < sum(one.get("count", 0) for one in read) <= 20


def test_sigterm_answers_what_comes_in_the_delay_and_then_ends(process):
    started, port = process
    statuses, failed, ended = [], [], threading.Event()

    def ask():
        while not ended.is_set():
            began = time.monotonic()
            try:
                statuses.append(post(port).status)
            except ConnectionRefusedError:
                return  # it takes no more connections
            except OSError:
                failed.append(began)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    asked = time.monotonic()
    started.send_signal(signal.SIGTERM)
    assert started.wait(30) == 0
    ended.set()
    for client in clients:
        client.join(30)
    assert set(statuses) == {200}
    assert all(began - asked > 0.9 for began in failed)  # a connection in the moment when the socket is closed
