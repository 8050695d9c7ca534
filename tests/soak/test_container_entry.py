"""The commands of the containers as they stand in the Dockerfiles and manifests, without a container runtime.

User, environment, working folder, command and health check are read from those files. The root is an overlay of this
machine's, mounted read-only in a mount namespace of its own, with a new /tmp to write to; the virtual environment is
linked to where the image has it. Needs root, `unshare` and `setpriv`; takes a minute for each.
"""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("fastapi")

from tests.serving.served_models import png, save_classifier

REPO = Path(__file__).parent.parent.parent
LAUNCH = REPO / "launch"
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
KEY = "k" * 24
ROOT = """
set -e
mount --make-rprivate /
mkdir -p {top} && mount -t tmpfs tmpfs {top} && mkdir {top}/up {top}/work {top}/root
mount -t overlay overlay -o lowerdir=/,upperdir={top}/up,workdir={top}/work {top}/root
cd {top}/root
chmod o+x root  # where this machine may keep its Python
rm -rf opt/jaxdino && mkdir -p opt model keys && ln -s {venv} opt/jaxdino
chroot . {useradd}
mount --bind {model} model && mount -o remount,ro,bind model
install -m 0440 -o root -g 10001 {keys} keys/keys
mount --bind /proc proc && mount --bind /dev dev
mount -t tmpfs tmpfs tmp && chmod 1777 tmp
mount -o remount,ro .
exec chroot . {run}
"""
AS_USER = "setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"


def dockerfile():
    """Return what the last stage of the CPU image sets."""
    text = (LAUNCH / "docker" / "cpu.Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    found = {word: re.findall(rf"^{word} (.*)$", text, re.MULTILINE)[-1] for word in ("ENV", "USER", "WORKDIR", "CMD")}
    env = dict(pair.partition("=")[::2] for pair in shlex.split(found["ENV"]))
    assert found["USER"] == "10001"
    return {
        "env": env | {"PATH": env["PATH"].replace("$PATH", BASE_PATH)},
        "useradd": re.findall(r"^RUN (useradd .*)$", text, re.MULTILINE)[0],
        "folder": found["WORKDIR"],
        "command": json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0]) + json.loads(found["CMD"]),
        "health": json.loads(re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", text, re.MULTILINE)[0]),
    }


def pod(name):
    """Return what a manifest sets, on top of the image."""
    first = next(yaml.safe_load_all((LAUNCH / "kubernetes-serving" / f"{name}.yaml").read_text()))
    spec = first["spec"]
    pod_spec = spec["template"]["spec"] if "template" in spec else spec["predictor"]
    (container,) = pod_spec["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    image, probe = dockerfile(), container["readinessProbe"]["httpGet"]
    ports = {one.get("name"): one["containerPort"] for one in container["ports"]}
    url = f"http://127.0.0.1:{ports.get(probe['port'], probe['port'])}{probe['path']}"
    # Kubernetes does not read HEALTHCHECK
    health = ["python", "-c", f"import urllib.request as u; u.urlopen('{url}', timeout=4)"]
    return image | {"env": image["env"] | env, "command": container["command"] + container["args"], "health": health}


def shell(how, command):
    """Return a command as the user, in the environment of the container."""
    env = how["env"] | {"PYTHONPATH": str(REPO)}  # in the image the package is installed
    pairs = " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())
    return f"{AS_USER} env -i -C {how['folder']} {pairs} {shlex.join(command)}"


def within(process, how, command, timeout=30):
    """Run a command in the root of a process."""
    enter = f"nsenter --target {process.pid} --mount --root {shell(how, command)}"
    return subprocess.run(shlex.split(enter), timeout=timeout, capture_output=True, text=True)


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {"Content-Type": "image/png", "X-API-Key": KEY})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.soak
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "nsenter"))),
    reason="needs root and a mount namespace",
)
@pytest.mark.parametrize("name", ["docker", "serve", "kserve"])
def test_the_command_runs_as_it_stands(name, tmp_path):
    how = dockerfile() if name == "docker" else pod(name)
    port = int(next(flag for flag in how["command"] if flag.startswith("--port=")).partition("=")[2])
    delay = next((float(flag.partition("=")[2]) for flag in how["command"] if flag.startswith("--drain_delay=")), 0)
    (tmp_path / "keys").write_text(f"tests {KEY}\n")
    save_classifier(tmp_path / "model")
    tmp_path.chmod(0o755)
    script = ROOT.format(
        top=f"/dev/shm/container-{os.getpid()}",
        venv=sys.prefix,
        useradd=how["useradd"],
        model=tmp_path / "model",
        keys=tmp_path / "keys",
        run=shell(how, how["command"]),
    )
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=file, stderr=file)
    try:
        end, early = time.monotonic() + 900, None
        while time.monotonic() < end and process.poll() is None:
            if '"listening"' in log.read_text():
                health = within(process, how, how["health"]).returncode
                early = health if early is None else early
                if health == 0:
                    break
            time.sleep(0.5)
        assert process.poll() is None and early, log.read_text()[-2000:]  # not healthy before all is compiled
        assert ask(port, "POST", "/predict", png(0)) == 200
        assert re.search(r"^Uid:\s+10001\s", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        for folder, allowed in {"/": False, "/model": False, "/opt/jaxdino": False, "/tmp": True}.items():
            assert (within(process, how, ["touch", f"{folder}/probe"]).returncode == 0) is allowed, folder
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if delay:
            time.sleep(1)
            assert ask(port, "GET", "/health/ready") == 503 and ask(port, "POST", "/predict", png(0)) == 200
        assert process.wait(60) == 0
        assert time.monotonic() - asked >= delay
        assert '"level": "error"' not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(f"/dev/shm/container-{os.getpid()}", ignore_errors=True)
