"""Measure each stage of configs/clipdinosam.py: the cost of a step, and its time and a prediction's against PyTorch's.

python -m benchmarks.segment_stages
python -m benchmarks.segment_stages --model dinov3_vits16 --text clip_vitb16 --sam sam_vitb --size 224 --batch 4

All weights are random, the pairs are the embedded shapes. The peer (benchmarks/segment_peer.py) is a plain loop around
transformers' DINOv3 and SAM decoder with the same adapters, losses and trained parameters; `--model` must be a
dinov3_* of which transformers has the class. Memory is what our compiled step asks for: its arguments (weights,
optimiser, batch) and what it holds on the way. The last columns are shares of the last stage's.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import harness
from benchmarks.harness import Contender

COLUMNS = ("stage", "trainable", "optimiser MB", "step MB", "GFLOP", "images/s", "memory x", "speed x")


def setup_of(args: argparse.Namespace) -> Any:
    """Prepare the run of the config with random weights."""
    from configs import clipdinosam
    from jaxdino.train.setup import prepare

    config = clipdinosam.get_config(args.model)
    config.model.weights = config.text.weights = config.sam.weights = "random"
    config.text.name, config.sam.name, config.data.name = args.text, args.sam, "shapes"
    config.data.update(image_size=args.size, batch_size=args.batch, num_threads=0)
    config.precision = args.dtype
    return prepare(config, lambda _: None)


def stages(setup: Any) -> Iterator[tuple[Any, dict, dict, Any]]:
    """Yield each stage as (part, state, batch on the host, objective)."""
    from jaxdino.core import sharding
    from jaxdino.train import state

    flat, before, task = None, None, setup.task
    for part in setup.parts:
        flat = task.put_on(part, flat or dict(task.flat), before)
        placed = sharding.put(flat, sharding.shardings(flat, setup.mesh, setup.rules))
        more = task.more(placed)
        begun = state.begin(placed, part.skeleton, part.plan, part.tx, seed=part.seed, mesh=setup.mesh, more=more)
        read = next(task.train_batches(part))
        batch = {name: read[name] for name in task.arrays if name in read}
        yield part, begun, batch, task.objective(part, begun)
        before = part


def prediction(setup: Any, part: Any, begun: dict, batch: dict, objective: Any, dtype: str) -> Contender:
    """Our prediction: normalise, masks at the image's size."""
    import jax

    from jaxdino.core.params import bind
    from jaxdino.data.photometric import normalize
    from jaxdino.objectives.segment import predict
    from jaxdino.train.state import whole

    how, flat = setup.task.spec.preprocess, {x: a.copy() for x, a in whole(begun["moving"], begun["frozen"]).items()}

    @jax.jit
    def masks(flat: dict, batch: dict) -> Any:
        net, image = bind(part.skeleton, flat).backbone, normalize(batch["image"], how.mean, how.std)
        text = objective.text(net, batch["label"].reshape(-1))
        return predict(net, net.tokens(image), text, batch | {"image": image})

    def run() -> None:
        jax.block_until_ready(masks(flat, batch))

    return Contender(f"jaxdino {dtype}", run, len(batch["image"]), peer=False)


def stepping(compiled: Callable, begun: dict, batch: dict, dtype: str) -> Contender:
    """Our compiled step, which takes over the moving part of the state."""
    import jax

    moving = [begun["moving"]]

    def run() -> None:
        moving[0], found = compiled(moving[0], begun["frozen"], batch)
        jax.block_until_ready((moving[0], found))

    return Contender(f"jaxdino {dtype}", run, len(batch["image"]), peer=False)


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Report the ratios of each stage's step, and of the prediction; return a row of the table for each stage."""
    import jax

    from benchmarks import peers, segment_peer
    from jaxdino.core import sharding
    from jaxdino.train import step

    setup, rows = setup_of(args), []
    task, mesh, how = setup.task, setup.mesh, setup.task.spec.preprocess
    where = f"{args.model}, {args.sam} at {args.size}, batch {args.batch}, {args.dtype}"
    for part, begun, read, objective in stages(setup):
        batch, modes = sharding.put_batch(read, mesh), peers.modes(args.quick)
        given = segment_peer.on_device(read, objective.features)
        peer = segment_peer.Segmenter(task.spec_of(part.stage).config, args.size)
        if part is setup.parts[0]:
            ours = prediction(setup, part, begun, batch, objective, args.dtype)
            contenders = [ours, *(segment_peer.forward(peer, mode, how, given, args.dtype) for mode in modes)]
            harness.report(f"prediction, {where}", contenders, harness.alternate(contenders, args.rounds))
        compiled = step.compile_train_step(task.train_step(part, begun), begun, mesh)
        compiled = compiled.lower(begun["moving"], begun["frozen"], batch).compile()
        memory, opt = compiled.memory_analysis(), jax.tree.leaves(begun["moving"]["opt"])
        row = {
            "stage": part.stage.name,
            "trainable": part.plan.trainable_params,
            "optimiser MB": sum(leaf.nbytes for leaf in opt) / 1e6,
            "step MB": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e6,
            "GFLOP": compiled.cost_analysis()["flops"] / 1e9,
        }
        theirs = [segment_peer.training(peer, mode, part, objective.settings, how, given, args.dtype) for mode in modes]
        contenders = [stepping(compiled, begun, batch, args.dtype), *theirs]
        times = harness.alternate(contenders, args.rounds)
        harness.report(f"training step, stage {part.stage.name}, {where}", contenders, times)
        rows.append(row | {"images/s": args.batch / statistics.median(times[contenders[0].name])})
    return rows


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, batch=16, rounds=10)
    flags.add_argument("--model", default="dinov3_digits", help="of the image encoder; a dinov3_*")
    flags.add_argument("--text", default="clip_tiny")
    flags.add_argument("--sam", default="sam_tiny")
    flags.add_argument("--size", type=int, default=64, help="of the images, pixels")
    args = flags.parse_args()
    harness.begin(args)
    rows = measured(args)
    print(f"\n{args.model}, {args.text}, {args.sam}, {args.size} pixels, batch {args.batch}, {args.dtype}")
    print("  ".join(f"{name:>12}" for name in COLUMNS))
    for row in rows:
        last = rows[-1]
        shares = (row["step MB"] / last["step MB"], row["images/s"] / last["images/s"])
        numbers = [f"{row['trainable']:>12,}", *(f"{row[name]:>12.1f}" for name in COLUMNS[2:6])]
        print("  ".join([f"{row['stage']:>12}", *numbers, *(f"{share:>12.2f}" for share in shares)]))


if __name__ == "__main__":
    main()
