"""Find this process's place in a job of several: from flags, or from the variables of a cluster.

A cluster is only looked for where its own variables are set; a single process never asks anything of the network.
"""

import dataclasses
import glob
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

from jaxdino.core.errors import UserError

PORT = 4711


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The variables that a launcher sets in each process.

    Attributes:
      sizes, rank: the number of processes (the first variable that is set), and the index of this one.
      local_sizes, local_rank: the same among the processes on this machine.
      needs: further variables without which there is no job step, only a shell in an allocation.
    """

    sizes: tuple[str, ...]
    rank: str
    local_sizes: tuple[str, ...] = ()
    local_rank: str = ""
    needs: tuple[str, ...] = ()


CLUSTERS = {
    "Slurm": Cluster(
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        "SLURM_PROCID",
        ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
        "SLURM_LOCALID",
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
    ),
    "Open MPI": Cluster(
        ("OMPI_COMM_WORLD_SIZE",),
        "OMPI_COMM_WORLD_RANK",
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    "Kubernetes": Cluster((), "JOB_COMPLETION_INDEX", needs=("KUBERNETES_SERVICE_HOST",)),
}
ALONE = "--num_processes=1 trains in this process alone"
BY_HAND = "give --coordinator=HOST:PORT --num_processes=N, and --process_id=0 to N-1 unless the launcher sets it"


@dataclasses.dataclass(frozen=True)
class Place:
    """One process among several.

    Attributes:
      coordinator: "host:port" of process 0. count, index: number of processes, and of this one.
      devices: indices of the GPUs of this machine that are this process's; None: all.
      found_by: what told all this, in words.
    """

    coordinator: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None
    found_by: str = "the flags"

    @property
    def address(self) -> tuple[str, int]:
        """Return the coordinator's host and port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    variables: Mapping[str, str] = os.environ,
) -> Place | None:
    """Return the place of this process, or None if it runs alone.

    Args:
      coordinator, count, index: as given by flags; what is None is read from the cluster's variables.
      variables: the environment.

    Raises:
      UserError: for flags that contradict each other, or a cluster that does not name its coordinator.
    """
    _check(coordinator, count, index)
    if count == 1:
        return None
    name = _cluster(variables)
    known = _numbers(CLUSTERS[name], variables) if name else {}
    if coordinator is None and count is None and index is None:
        return _on_tpu(variables) if name is None else _of_cluster(name, known, variables)
    count = known.get("count") if count is None else count
    index = known.get("index") if index is None else index
    if coordinator is None and name:
        coordinator = _detected(name).coordinator
    for flag, value in (("coordinator", coordinator), ("num_processes", count), ("process_id", index)):
        if value is None:
            raise UserError(f"--{flag} is missing, and no cluster's variables tell it: {BY_HAND}")
    assert coordinator is not None and count is not None and index is not None  # for pyright
    _check(coordinator, count, index)
    if count == 1:
        return None
    devices = _devices(CLUSTERS[name], variables) if name else None
    return Place(coordinator, count, index, devices, f"the flags and {name}" if name else "the flags")


def _check(coordinator: str | None, count: int | None, index: int | None) -> None:
    if coordinator is not None and not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(f"--coordinator={coordinator} is not HOST:PORT, such as node1:{PORT}")
    if count is not None and count < 1:
        raise UserError(f"--num_processes={count} must be at least 1")
    if index is not None and (index < 0 or (count is not None and index >= count)):
        last = "" if count is None else f" to {count - 1} (--num_processes={count})"
        raise UserError(f"--process_id={index} is not among the processes: they are numbered from 0{last}")


def _cluster(variables: Mapping[str, str]) -> str | None:
    """Return the name of the cluster whose variables are set."""
    for name, one in CLUSTERS.items():
        if one.rank in variables and all(need in variables for need in one.needs):
            return name
    return None


def _numbers(cluster: Cluster, variables: Mapping[str, str]) -> dict[str, int]:
    """Return "count" and "index", as far as they are known."""
    sizes = [int(variables[name]) for name in cluster.sizes if variables.get(name, "").isdigit()]
    index = variables.get(cluster.rank, "")
    return ({"count": sizes[0]} if sizes else {}) | ({"index": int(index)} if index.isdigit() else {})


def _of_cluster(name: str, known: Mapping[str, int], variables: Mapping[str, str]) -> Place | None:
    if known.get("count") == 1:
        return None
    found = _detected(name)
    count = known.get("count", found.count)
    devices = _devices(CLUSTERS[name], variables)
    return None if count == 1 else dataclasses.replace(found, count=count, devices=devices)


def _detected(name: str) -> Place:
    """Return what JAX finds out about the cluster. Raises UserError if it finds nothing."""
    why = ""
    try:
        found = _asked()
    except Exception as err:  # whatever the interfaces of a cluster raise
        found, why = None, f" ({' '.join(str(err).split())})"
    if found is None or None in found:
        package = name == "Kubernetes" and importlib.util.find_spec("kubernetes") is None
        more = "install jax[k8s], or " if package else ""
        raise UserError(
            f"this process is one of a {name} job, but its coordinator was not found{why}: {more}{BY_HAND}; {ALONE}"
        )
    return Place(*found, found_by=name)


def _asked() -> tuple[Any, Any, Any]:
    """Return (coordinator, count, index) as `jax.distributed.initialize` finds them."""
    import warnings

    from jax._src.clusters import ClusterEnv

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing package is named above
        return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 60)[:3]


def _on_tpu(variables: Mapping[str, str]) -> Place | None:
    """Return the place in a TPU pod, or None elsewhere."""
    if importlib.util.find_spec("libtpu") is None or variables.get("JAX_PLATFORMS", "tpu") != "tpu":
        return None
    try:
        found = _asked()
    except Exception:  # no TPU VM, although its library is installed
        return None
    return None if None in found or found[1] == 1 else Place(*found, found_by="the TPU pod")


def _devices(cluster: Cluster, variables: Mapping[str, str]) -> tuple[int, ...] | None:
    """Divide the visible GPUs of this machine among its processes; None if all are for each one.

    Each sees all of them if it is alone there, or if the cluster has already bound one to each.
    """
    sizes = [variables[name] for name in cluster.local_sizes if name in variables]
    first = re.match(r"\d+", sizes[0]) if sizes else None  # Slurm: "2(x3),1"
    here = int(first[0]) if first else 1
    chosen = variables.get("CUDA_VISIBLE_DEVICES")
    visible = len(glob.glob("/proc/driver/nvidia/gpus/*")) if chosen is None else len(chosen.split(","))
    if here < 2 or visible < here or not variables.get(cluster.local_rank, "").isdigit():
        return None
    share, mine = visible // here, int(variables[cluster.local_rank])
    return tuple(range(mine * share, (mine + 1) * share))
