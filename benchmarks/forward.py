"""Compare the forward pass of a ViT, ResNet or ConvNeXt with PyTorch: images/s.

python -m benchmarks.forward --batch=8 --dtype=bfloat16
python -m benchmarks.forward --model=dinov3_vits16 --batch=1
python -m benchmarks.forward --model=resnet50
"""

from benchmarks import harness


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__)
    flags.add_argument("--model", default="vit_small_patch16_224")
    flags.add_argument("--size", type=int, default=224, help="pixels")
    flags.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="cudnn: on an NVIDIA GPU")
    args = flags.parse_args()
    harness.begin(args)
    from benchmarks import ours, peers

    contenders = [
        ours.forward(args.model, args.batch, args.size, args.dtype, args.attention),
        *peers.forward(args.model, args.batch, args.size, args.dtype, args.quick),
    ]
    title = f"forward {args.model} at {args.size}, batch {args.batch}, {args.dtype}"
    harness.report(title, contenders, harness.alternate(contenders, args.rounds))


if __name__ == "__main__":
    main()
