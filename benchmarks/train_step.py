"""Compare one training step of a ViT (forward, backward, AdamW) with PyTorch: images/s.

python -m benchmarks.train_step --dtype=bfloat16
python -m benchmarks.train_step --trainable=head
python -m benchmarks.train_step --trainable=last4
python -m benchmarks.train_step --batch=32 --slice=4
python -m benchmarks.train_step --remat=blocks --own

`--own` compares with our own step over all parameters instead: what freezing saves, and what `--remat` costs.
"""

from benchmarks import harness


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__)
    flags.add_argument("--model", default="vit_small_patch16_224")
    flags.add_argument("--size", type=int, default=224, help="pixels")
    flags.add_argument("--trainable", choices=("all", "last4", "head"), default="all")
    flags.add_argument("--slice", type=int, default=0, help="images per slice of an accumulated step; 0: all")
    flags.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="cudnn: on an NVIDIA GPU")
    flags.add_argument("--remat", choices=("none", "blocks", "dots"), default="none", help="`model.remat`")
    flags.add_argument("--own", action="store_true", help="against our own full step")
    args = flags.parse_args()
    harness.begin(args)
    from benchmarks import ours, peers

    slices = args.batch // args.slice if args.slice else 1
    given = (args.model, args.batch, args.size, args.dtype)
    pieces = sorted({1, slices})
    contenders = [ours.training(*given, args.trainable, parts, args.attention, args.remat) for parts in pieces]
    if args.own:
        contenders.append(ours.as_peer("jaxdino, all", ours.training(*given, "all", slices, args.attention)))
    else:
        contenders += peers.training(*given, args.trainable, slices, args.quick)
    what = f"training step, {args.trainable}, {args.model} at {args.size}, batch {args.batch}, {args.dtype}"
    harness.report(what, contenders, harness.alternate(contenders, args.rounds))


if __name__ == "__main__":
    main()
