"""The launch files: shells and schemas accept them, and `jaxdino train` accepts the commands that they start."""

import os
import shlex
import stat
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from jaxdino import main
from jaxdino.settings.command_line import command

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
SETS = [LAUNCH / "kubernetes" / "gpu.yaml", LAUNCH / "kubernetes" / "tpu.yaml"]


def accepted(arguments: list[str]) -> dict[str, str]:
    """The command's own flags, which `jaxdino train` has; its config is read, with the settings that are given."""
    mine, rest = [], []
    for one in arguments:
        name = one.lstrip("-").partition("=")[0]
        (mine if name in ("coordinator", "num_processes", "process_id", "wait", "workdir") else rest).append(one)
    parsed = {one.lstrip("-").partition("=")[0]: one.partition("=")[2] for one in mine}
    assert set(parsed) <= set(main.flags.FLAGS)
    (config,) = (one.partition("=")[2] for one in rest if one.startswith("--config="))
    command(config, [one for one in rest if not one.startswith("--config=")]).config()
    return parsed


@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_pod.sh"])
def test_shellcheck_finds_nothing(name):
    done = subprocess.run(["shellcheck", LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", SETS, ids=lambda file: file.stem)
def test_kubernetes_accepts_the_job_of_a_set(file):
    made = yaml.safe_load(file.read_text())
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (one,) = made["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": one["name"]}, "spec": one["template"]["spec"]}
    kubernetes_validate.validate(job, "1.31", strict=True)
    (container,) = one["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["jaxdino", "train"]
    given = accepted(container["args"])
    number = str(one["template"]["spec"]["completions"])
    assert given["num_processes"] == number == str(one["template"]["spec"]["parallelism"])
    (rule,) = one["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    host = f"{made['metadata']['name']}-{one['name']}-0-0.{made['spec']['network']['subdomain']}"
    assert given["coordinator"].partition(":")[0] == host


@pytest.mark.parametrize("file", SETS, ids=lambda file: file.stem)
def test_the_schema_refuses_a_mistake(file):
    job = yaml.safe_load(file.read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["template"]["spec"]["containers"][0]["arguments"] = []
    wrong = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def fake(folder: Path, **programs: str) -> dict[str, str]:
    """Programs of these names that print their arguments, and then do something; the environment that finds them."""
    for name, more in programs.items():
        file = folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" >> {folder}/called\n{more}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def called(folder: Path) -> list[str]:
    return (folder / "called").read_text().split("\n")[:-1]


@pytest.mark.parametrize(("finished", "again"), [("true", False), ("false", True)])
def test_slurm_puts_a_job_back_until_it_is_finished(tmp_path, finished, again):
    text = f'{{"finished": {finished}}}'
    env = fake(tmp_path, srun=f"echo '{text}' > {tmp_path}/summary.json", scontrol="")
    given = ["--config=gradual", f"--workdir={tmp_path}", "--config.data.root=a folder"]
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", *given], env=env | {"SLURM_JOB_ID": "7"})
    assert done.returncode == 0
    found = called(tmp_path)
    start = ["srun", "--kill-on-bad-exit=1", "jaxdino", "train", *given]
    assert found == start + (["scontrol", "requeue", "7"] if again else [])
    accepted(start[4:])


@pytest.mark.parametrize(("status", "restarts", "again"), [(75, 0, True), (137, 19, True), (137, 20, False)])
def test_slurm_goes_on_when_a_process_is_lost(tmp_path, status, restarts, again):
    """srun returns the highest status: 137 is that of a process that was killed."""
    variables = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    env = fake(tmp_path, srun=f"exit {status}", scontrol="") | variables
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "--config=gradual", f"--workdir={tmp_path}"], env=env)
    assert done.returncode == (0 if again else status)
    assert (called(tmp_path)[-3:] == ["scontrol", "requeue", "7"]) == again


def test_slurm_does_not_repeat_a_failure_and_wants_a_run_folder(tmp_path):
    env = fake(tmp_path, srun="exit 3", scontrol="")
    script = ["bash", LAUNCH / "slurm.sbatch", "--config=gradual"]
    assert subprocess.run([*script, f"--workdir={tmp_path}"], env=env).returncode == 3
    assert "scontrol" not in called(tmp_path)
    missing = subprocess.run(script, env=env, capture_output=True, text=True)
    assert missing.returncode == 2 and "give --workdir=DIR" in missing.stderr


def test_every_host_of_a_tpu_gets_the_command(tmp_path):
    env = fake(tmp_path, gcloud="") | {"TPU": "mine", "ZONE": "z", "WORKDIR": "/mnt/runs/my run"}
    given = ["--config=gradual:dinov3_vitb16", "--config.data.root=/mnt/it's mine"]
    subprocess.run([LAUNCH / "tpu_pod.sh", *given], env=env, check=True)
    commands = [one.partition("=")[2] for one in called(tmp_path) if one.startswith("--command=")]
    program, verb, *arguments = shlex.split(commands[-1])
    assert (program, verb) == ("$HOME/jaxdino/bin/jaxdino", "train")
    assert arguments == [*given, "--workdir=/mnt/runs/my run"]
    accepted(arguments)


def test_skypilot_starts_one_process_on_each_machine():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    variables = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    line = f"jaxdino() {{ printf '%s\\n' \"$@\"; }}\n{task['run']}"
    done = subprocess.run(
        ["bash", "-euc", line], env=os.environ | task["envs"] | variables, capture_output=True, text=True, check=True
    )
    given = accepted(done.stdout.splitlines()[1:])
    assert (given["coordinator"], given["num_processes"], given["process_id"]) == ("10.0.0.1:4711", "2", "1")
