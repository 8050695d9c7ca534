"""The cases of `benchmarks.accelerator`, and the process that measures them."""

import argparse
import dataclasses
import functools
import gc
import itertools
import json
import re
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, ours
from benchmarks.harness import Contender
from jaxdino.core.processor import prepare
from jaxdino.models import registry

ROUNDS, TURN = 3, 0.3  # turns of each contender, and seconds of a turn
DTYPE = "bfloat16"
SIZES = (224, 512)
BATCHES = {
    "vit_large_patch16_224": 64,
    "vit_base_patch16_224": 128,
    "vit_small_patch16_224": 256,
    "dinov3_vitl16": 64,
    "dinov3_vitb16": 128,
    "dinov3_vits16": 256,
}
"""Model -> images of a step at 224, a quarter of it at 512; a forward pass has twice as many."""
DISTILLED = {"dinov3_vits16": 64, "dinov3_vitb16": 32, "dinov3_vitl16": 16}
HEADS = 64
TINY = dict(sizes=(32,), batches={"vit_small_patch16_224": 2, "dinov3_vits16": 2}, distilled={"dinov3_vits16": 2})


@dataclasses.dataclass(frozen=True)
class Case:
    """What one row of the page measures.

    Attributes:
      makers: column of the page -> function that makes a contender, with everything that it imports.
      flops: of one image, by theory; None where that is not defined.
    """

    name: str
    makers: dict[str, Callable[[], Contender]]
    flops: float | None = None


def cases(tiny: bool) -> Iterator[Case]:
    """Yield all cases, the most important ones first."""
    mode, given = ("eager", TINY) if tiny else ("compile", dict(sizes=SIZES, batches=BATCHES, distilled=DISTILLED))
    for size, (name, batch) in itertools.product(given["sizes"], given["batches"].items()):
        batch = max(2, batch * 224**2 // size**2 // 2 * 2) if size > 224 else batch
        for what in ("step", "forward"):
            yield _model(what, name, batch if what == "step" else 2 * batch, size, mode)
    for name, batch in given["distilled"].items():
        yield _distillation(name, batch, mode, tiny)
    for name in [one for one in given["batches"] if "base" in one or tiny]:
        yield _model("head step", name, 2 * given["batches"][name], given["sizes"][0], mode)
    yield Case(f"{HEADS} linear heads", {"jaxdino, xla": lambda: _heads(tiny), "torch": lambda: _torch_head(tiny)})


def _model(what: str, name: str, batch: int, size: int, mode: str) -> Case:
    trainable = "head" if what == "head step" else "all"

    def mine(attention: str) -> Contender:
        if what == "forward":
            return ours.forward(name, batch, size, DTYPE, attention)
        return ours.training(name, batch, size, DTYPE, trainable, 1, attention)

    def theirs(library: str) -> Contender:
        from benchmarks import peers

        if what == "forward":
            return peers.inference(library, mode, name, batch, size, DTYPE, DTYPE)
        return peers.stepping(library, mode, name, batch, size, DTYPE, trainable)

    libraries = ("timm", "transformers") if name.startswith("dinov3_vit") else ("timm",)
    makers = {f"jaxdino, {one}": functools.partial(mine, one) for one in ("xla", "cudnn")}
    makers |= {library: functools.partial(theirs, library) for library in libraries}
    return Case(f"{what} {name} at {size}, batch {batch}", makers, vit_flops(name, size) * (3 if what == "step" else 1))


def vit_flops(name: str, size: int) -> float:
    """FLOPs of the matrix products of one image's forward pass; a step has three times as many."""
    cfg = registry.get(name).config
    patches = (size // cfg.patch_size) ** 2
    tokens = patches + 1 + cfg.num_registers
    block = 2 * tokens * cfg.width * (4 * cfg.width + 2 * cfg.mlp_dim) + 4 * tokens**2 * cfg.width
    return cfg.depth * block + 2 * patches * 3 * cfg.patch_size**2 * cfg.width


def _distillation(name: str, batch: int, mode: str, tiny: bool) -> Case:
    from benchmarks import distill_step

    sizes = dict(size=32, local_size=16, locals=2, out_dim=64) if tiny else dict(size=224, local_size=96, locals=8)
    given = dict(model=name, method="dinov2", batch=batch, dtype=DTYPE, slices=1, out_dim=65536) | sizes

    def one(contender: str, attention: str = "xla") -> Contender:
        return distill_step.contender(contender, argparse.Namespace(**given, attention=attention))

    makers = {f"jaxdino, {kind}": functools.partial(one, "jaxdino", kind) for kind in ("xla", "cudnn")}
    makers |= {library: functools.partial(one, f"{library} {mode}") for library in ("timm", "transformers")}
    return Case(f"self-distillation step {name}, batch {batch}", makers)


def _rows(tiny: bool) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Features, classes, the number of classes and the number of steps."""
    rows, width, classes, steps = (256, 16, 4, 8) if tiny else (50_000, 768, 100, 256)
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, width), np.float32), rng.integers(0, classes, rows, np.int32), classes, steps


def _heads(tiny: bool) -> Contender:
    from jaxdino.evals.linear_heads import Cells, train_heads

    x, y, classes, steps = _rows(tiny)
    cells, given = Cells.of(np.geomspace(0.01, 1, HEADS), np.zeros(HEADS)), jnp.asarray(x)

    def run():
        jax.block_until_ready(train_heads(given, y, cells, num_classes=classes, steps=steps, batch_size=128))

    return Contender("jaxdino", run, HEADS * steps, peer=False)


def _torch_head(tiny: bool) -> Contender:
    """One head; as many heads take as many times its time."""
    import torch

    from benchmarks.peers import device, wait

    x, y, classes, steps = _rows(tiny)
    features, labels = torch.from_numpy(x).to(device()), torch.from_numpy(y).long().to(device())
    head = torch.nn.Linear(x.shape[1], classes).to(device())
    optimizer = torch.optim.SGD(head.parameters(), 0.1, momentum=0.9, fused=True)

    def run():
        for rows in torch.randperm(len(features), device=device())[: 128 * steps].split(128)[:steps]:
            torch.nn.functional.cross_entropy(head(features[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait()

    return Contender("torch", run, steps)


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Return a row of `accelerator.page`: medians of what runs, errors of what does not; {} for 0 rounds."""
    live, errors = [], {}
    for column, make in case.makers.items():
        try:
            one = dataclasses.replace(make(), name=column)
            one.run()
            live.append(one)
        except Exception as err:
            errors[column] = _short(err)
    times = harness.alternate(live, rounds, TURN) if rounds else {}
    work = {one.name: one.work for one in live}
    medians = {column: statistics.median(each) for column, each in times.items()}
    return dict(name=case.name, work=work, flops=case.flops, seconds=medians, errors=errors)


def _short(err: Exception) -> str:
    return f"{type(err).__name__}: {' '.join(str(err).replace('|', '/').split())[:100]}"


def matrix_rate(side: int) -> float:
    """Measure FLOP/s of a square bfloat16 matrix product: the fastest of ten."""
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32).astype(a.dtype))
    product(a).block_until_ready()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready([product(a) for _ in range(10)])
        seconds.append((time.perf_counter() - begin) / 10)
    return 2 * side**3 / min(seconds)


def work(args: argparse.Namespace) -> None:
    """Compile a share of the cases (`--share`), or measure them all but the first (`--skip`); a line for each."""
    warnings.simplefilter("ignore")
    prepare()  # the peers are in this process too
    if args.tiny:
        import torch

        torch.set_num_threads(1)  # on a machine with other load, more threads wait for each other
    chosen = [case for case in cases(args.tiny) if re.search(args.only, case.name)]
    log = Path(args.worker)

    def say(**line: Any) -> None:
        with open(log, "a") as file:
            file.write(json.dumps(line) + "\n")

    if args.share:
        index, count = map(int, args.share.split("/"))
        for case in chosen[index::count]:
            measured(case, rounds=0)
            free()
        return
    card = jax.devices()[0].device_kind
    say(names=[case.name for case in chosen], facts=dict(machine=harness.machine(), card=card))
    say(facts=dict(rate=matrix_rate(256 if args.tiny else 8192)))
    for case in chosen[args.skip :]:
        try:
            row = measured(case, ROUNDS)
        except Exception as err:
            row = dict(name=case.name, failed=_short(err))
        say(row=row)
        free()


def free() -> None:
    """Free the memory of the last case, and let torch compile the same classes again: it gives up after eight times."""
    import torch

    gc.collect()
    jax.clear_caches()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
