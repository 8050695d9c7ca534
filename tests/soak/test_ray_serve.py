"""Ray Serve: two replicas, one of which is killed under load: every request is answered, and a new one comes."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import QUICK
from tests.launch.test_ray_predict import below
from tests.serving.served_models import png, save_classifier

pytestmark = pytest.mark.soak
ROOT = Path(__file__).parents[2]
PORT = 8731


class Client(threading.Thread):
    """Sends an image again and again; a refused connection and a status of 5xx are tried again, as a proxy would."""

    def __init__(self):
        super().__init__(daemon=True)
        self.answers, self.repeated, self.lost, self.ends = 0, 0, [], False

    def run(self):
        while not self.ends:
            for _ in range(60):
                request = urllib.request.Request(f"http://127.0.0.1:{PORT}/predict", png(1))
                request.add_header("content-type", "image/png")
                try:
                    assert b'"cat"' in urllib.request.urlopen(request, timeout=60).read()
                    self.answers += 1
                    break
                except (urllib.error.URLError, OSError) as err:
                    if isinstance(err, urllib.error.HTTPError) and err.code < 500:
                        self.lost.append(str(err))
                        break
                    self.repeated += 1
                    time.sleep(0.5)
            else:
                self.lost.append("60 tries")


def replicas(driver):
    return {number for number, words in below(driver).items() if words.startswith("ray::ServeReplica")}


def wait(until, seconds, log):
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.3)
    return found


def test_nothing_is_lost_with_a_replica(tmp_path):
    pytest.importorskip("ray.serve")
    save_classifier(tmp_path / "run")
    env = os.environ | {"XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"TMPDIR": "/tmp"}  # the paths of Ray's sockets must be short
    command = [sys.executable, "-m", "launch.ray_serve", "--replicas=2", "--cpus=0.5", "--max_batch=4"]
    command += [f"--workdir={tmp_path / 'run'}", f"--port={PORT}"]
    log = tmp_path / "log.txt"
    with log.open("w") as file, subprocess.Popen(command, env=env, cwd=tmp_path, stdout=file, stderr=file) as driver:
        try:
            wait(lambda: "ready: http" in log.read_text() or driver.poll() is not None, 360, log)
            before = wait(lambda: len(replicas(driver.pid)) == 2 and replicas(driver.pid), 60, log)
            clients = [Client() for _ in range(4)]
            for client in clients:
                client.start()
            wait(lambda: all(client.answers > 5 for client in clients), 60, log)
            os.kill(min(before), signal.SIGKILL)
            wait(lambda: len(replicas(driver.pid) - {min(before)}) == 2, 240, log)
            then = [client.answers for client in clients]
            wait(lambda: all(client.answers > n + 5 for client, n in zip(clients, then, strict=True)), 120, log)
            for client in clients:
                client.ends = True
                client.join(120)
            print("answers", sum(one.answers for one in clients), "repeated", sum(one.repeated for one in clients))
            assert not [line for client in clients for line in client.lost]
        finally:
            driver.send_signal(signal.SIGTERM)
            driver.wait(120)
