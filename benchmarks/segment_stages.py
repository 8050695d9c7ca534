"""Measure the cost of each stage of configs/clipdinosam.py: trained parameters, memory, work and images/s of a step.

python -m benchmarks.segment_stages
python -m benchmarks.segment_stages --model dinov3_vits16 --text clip_vitb16 --sam sam_vitb --size 224 --batch 4

All weights are random, the pairs are the embedded shapes. Memory is what the compiled step asks for: its arguments
(weights, optimiser, batch) and what it holds on the way. The last columns are shares of the last stage's.
"""

import argparse
import time

import numpy as np

from benchmarks import harness

COLUMNS = ("stage", "trainable", "optimiser MB", "step MB", "GFLOP", "images/s", "memory x", "speed x")


def measured(args: argparse.Namespace) -> list[dict[str, float]]:
    """A row for each stage."""
    import jax

    from configs import clipdinosam
    from jaxdino.core import sharding
    from jaxdino.train import state, step
    from jaxdino.train.setup import prepare

    config = clipdinosam.get_config(args.model)
    config.model.weights = config.text.weights = config.sam.weights = "random"
    config.text.name, config.sam.name, config.data.name = args.text, args.sam, "shapes"
    config.data.update(image_size=args.size, batch_size=args.batch, num_threads=0)
    config.precision = args.dtype
    setup, rows, flat, before = prepare(config, lambda _: None), [], None, None
    for part in setup.parts:
        flat = setup.task.put_on(part, flat or dict(setup.task.flat), before)
        placed = sharding.put(flat, sharding.shardings(flat, setup.mesh, setup.rules))
        more = setup.task.more(placed)
        begun = state.begin(placed, part.skeleton, part.plan, part.tx, seed=part.seed, mesh=setup.mesh, more=more)
        read = next(setup.task.train_batches(part))
        batch = sharding.put_batch({name: read[name] for name in setup.task.arrays if name in read}, setup.mesh)
        compiled = step.compile_train_step(setup.task.train_step(part, begun), begun, setup.mesh)
        compiled = compiled.lower(begun["moving"], begun["frozen"], batch).compile()
        memory, opt = compiled.memory_analysis(), jax.tree.leaves(begun["moving"]["opt"])
        rows.append(
            {
                "stage": part.stage.name,
                "trainable": part.plan.trainable_params,
                "optimiser MB": sum(leaf.nbytes for leaf in opt) / 1e6,
                "step MB": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e6,
                "GFLOP": compiled.cost_analysis()["flops"] / 1e9,
                "images/s": args.batch / timed(compiled, begun, batch, args.rounds),
            }
        )
        before = part
    return rows


def timed(compiled, begun, batch, rounds: int) -> float:
    """Return the median time of a step in seconds."""
    import jax

    moving, seconds = begun["moving"], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        moving, found = compiled(moving, begun["frozen"], batch)
        jax.block_until_ready(found)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, batch=16, rounds=10)
    flags.add_argument("--model", default="dinov3_digits", help="of the image encoder")
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
