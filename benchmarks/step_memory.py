"""Compare the peak memory of a training step with PyTorch's step under autocast, and with our own forward pass.

python -m benchmarks.step_memory --dtype=bfloat16
python -m benchmarks.step_memory --dtype=bfloat16 --model=vit_base_patch16_224
python -m benchmarks.step_memory --dtype=bfloat16 --trainable=head
python -m benchmarks.step_memory --dtype=bfloat16 --trainable=lora
python -m benchmarks.step_memory --dtype=bfloat16 --trainable=lora --remat=blocks --slices=16 --programs

Each runs in a process of its own that takes three steps; from its peak, that of a process which only imports the
libraries is subtracted. Ours takes the batch as a run does (`jaxdino.train.slicing`), or in `--slices`; `--remat` is
`model.remat`. There is no peer with adapters. `--programs` prints what the compiled programs of the step and of the
forward pass hold instead: their arguments (weights, optimiser, images) and intermediate arrays.
"""

import argparse
import sys

from benchmarks import harness
from benchmarks.distill_step import begin_alone, peak

STEPS = 3
OURS, FORWARD, PEER = "jaxdino", "jaxdino, forward pass", "timm eager"


def alone(args: argparse.Namespace) -> None:
    """Run a process: import, then take some steps of one contender."""
    begin_alone(args, ours=args.alone != PEER)
    if args.alone == PEER:
        from benchmarks import peers

        peers.torch.set_num_threads(harness.cores())
        harness.allow_torchvision()
        __import__("timm")
        given = args.model, args.batch, args.size, args.dtype
        one = peers.stepping("timm", "eager", *given, args.trainable) if args.steps else None
    else:
        from benchmarks import ours

        __import__("jaxdino.train.slicing")
        ours.jnp.zeros(1).block_until_ready()
        one = _ours(args) if args.steps else None
    for _ in range(args.steps if one else 0):
        one.run()


def _ours(args: argparse.Namespace) -> harness.Contender:
    from benchmarks import ours

    given = args.model, args.batch, args.size, args.dtype
    if args.alone == FORWARD:
        return ours.forward(*given, "xla", stored="float32")
    return ours.training(*given, args.trainable, _slices(args), "xla", remat=args.remat)


def _slices(args: argparse.Namespace) -> int:
    from benchmarks import ours
    from jaxdino.models import registry
    from jaxdino.train.slicing import sliced_stage, tokens

    stage = ours.stage_of(args.trainable, accumulate=args.slices, batch_size=args.batch)
    return sliced_stage(stage, tokens(registry.get(args.model), [(args.size, args.size)]), 1).accumulate or 1


def programs(args: argparse.Namespace) -> None:
    """Print what the compiled step and forward pass hold, and the share of the forward pass and the trainable state."""
    import jax

    from benchmarks import ours

    given = args.model, args.batch, args.size, args.dtype
    forward, _ = ours.forward_program(*given, "xla", stored="float32")
    step, state, _ = ours.step_program(*given, args.trainable, _slices(args), "xla", args.remat)
    held = {}
    for name, program in ((OURS, step), (FORWARD, forward)):
        found = program.memory_analysis()
        held[name] = found.argument_size_in_bytes + found.temp_size_in_bytes
        print(f"  {name:<36} {held[name] / 1e6:9.0f} MB, intermediate {found.temp_size_in_bytes / 1e6:9.0f} MB")
    own = sum(leaf.nbytes for name in ("trainable", "opt") for leaf in jax.tree.leaves(state["moving"][name]))
    print(f"  {'trainable parameters and optimiser':<36} {own / 1e6:9.0f} MB")
    print(f"  ratio {held[OURS] / (held[FORWARD] + own):.2f}: {OURS} against forward pass and trainable state")


def main() -> None:
    """Print the peaks and their ratios."""
    flags = harness.parser(__doc__, batch=32)
    flags.add_argument("--model", default="vit_small_patch16_224")
    flags.add_argument("--size", type=int, default=224, help="pixels")
    flags.add_argument("--trainable", choices=("all", "last4", "head", "lora"), default="all")
    flags.add_argument("--slices", type=int, help="of our step; by default those of a run")
    flags.add_argument("--remat", choices=("none", "blocks", "dots"), default="none")
    flags.add_argument("--programs", action="store_true", help="what the compiled programs hold")
    flags.add_argument("--alone", help=argparse.SUPPRESS)
    flags.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.alone:
        alone(args)
        return
    harness.begin(args)
    if args.programs:
        programs(args)
        return
    command, above = [sys.executable, "-m", "benchmarks.step_memory", *sys.argv[1:]], {}
    for name in (OURS, FORWARD) + ((PEER,) if args.trainable != "lora" else ()):
        idle, full = (peak([*command, "--alone", name, "--steps", str(steps)]) for steps in (0, STEPS))
        above[name] = full - idle
        print(f"  {name:<36} {full / 1e6:9.0f} MB, above the libraries {above[name] / 1e6:9.0f} MB", flush=True)
    for name in above:
        if name != OURS:
            print(f"  ratio {above[OURS] / above[name]:.2f}, above the libraries: {OURS} against {name}")


if __name__ == "__main__":
    main()
