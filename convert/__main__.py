"""`python -m convert import | export | inspect | verify`: weights between PyTorch and jaxdino."""

import argparse
import sys

from jaxdino.core.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 if verify found a difference, 2 on an error of the user's."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m convert", description=__doc__.split(":")[1].strip())
    commands = parser.add_subparsers(required=True, metavar="command")
    overrules = argparse.ArgumentParser(add_help=False)
    overrules.add_argument("--model", help="the model's published name, where keys and shapes leave it open")
    overrules.add_argument("--layout", help="hf, meta or timm, likewise")
    overrules.add_argument("--prefix", help="which network of the checkpoint: what stands before its keys ('teacher')")
    overrules.add_argument("--num_heads", type=int, help="attention heads of a custom width")
    src_help = "a .pth or .safetensors file, a Hugging Face folder or hub name"

    command = commands.add_parser("import", parents=[overrules], help="PyTorch checkpoint -> folder of ours")
    command.add_argument("src", metavar="SRC", help=src_help)
    command.add_argument("--out", required=True, metavar="DIR")
    command.add_argument("--drop_head", action="store_true", help="leave a classification head aside")
    command.add_argument("--overwrite", action="store_true")
    command.set_defaults(run=_import)

    command = commands.add_parser(
        "export", parents=[overrules], help="folder of ours, workdir or checkpoint -> PyTorch checkpoint"
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("src", metavar="SRC", nargs="?", help="a folder made by import, or a PyTorch checkpoint")
    which.add_argument("--workdir", metavar="DIR", help="a training run: its best model is exported")
    command.add_argument("--format", choices=("hf", "meta", "timm"), help="default: as the weights came in")
    command.add_argument("--out", required=True, metavar="DIR")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as it is")
    command.add_argument("--max_shard_size", type=float, default=5.0, metavar="GB", help="of a safetensors shard")
    command.add_argument("--overwrite", action="store_true")
    command.set_defaults(run=_export)

    command = commands.add_parser("inspect", parents=[overrules], help="model, layout, parameters, dtype, digest")
    command.add_argument("src", metavar="SRC", help=src_help + ", a folder of ours or a workdir")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("verify", parents=[overrules], help="the PyTorch original beside ours on an image")
    command.add_argument("src", metavar="SRC", help=src_help)
    command.add_argument("--image", metavar="FILE", help="default: a fixed random picture")
    command.set_defaults(run=_verify)
    return parser


def _overrules(args) -> dict:
    return {name: getattr(args, name) for name in ("model", "layout", "prefix", "num_heads")}


def _import(args) -> int:
    from convert.load import load_pretrained
    from convert.store import refuse_foreign, save_model

    refuse_foreign(args.out, args.overwrite)
    found = load_pretrained(args.src, drop_head=args.drop_head, **_overrules(args))
    save_model(args.out, found.card, found.flat, overwrite=args.overwrite)
    _say(found.notes)
    print(f"imported {found.card.spec.name} ({found.card.layout} layout) into {args.out}")
    return 0


def _export(args) -> int:
    from convert.export import export

    overrules = _overrules(args)
    _say(
        export(
            args.workdir or args.src,
            args.out,
            layout=args.format,
            dtype=args.dtype,
            max_shard_bytes=int(args.max_shard_size * 1e9),
            overwrite=args.overwrite,
            source_layout=overrules.pop("layout"),
            **overrules,
        )
    )
    return 0


def _inspect(args) -> int:
    from convert.hub import find
    from convert.load import load_pretrained
    from convert.store import is_model

    found = load_pretrained(args.src, **_overrules(args))
    card, config = found.card, found.card.spec.config
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool)
    ours = f"jaxdino (from {card.layout})" if card.layout else "jaxdino"
    rows = {
        "model": card.spec.name,
        "layout": ours if is_model(find(args.src)) else card.layout,
        "source": f"{card.source.get('path', '-')} {card.source.get('prefix', '')}".strip(),
        "parameters": f"{skeleton.num_params:,}",
        "dtype": ", ".join(sorted({found.flat[path].dtype.name for path in skeleton.paths("param")})),
        "digest": card.digest,
        "shape": f"width {config.width}, {config.depth} blocks, {config.num_heads} heads, patch {config.patch_size}",
        "input": f"{card.spec.preprocess.size}, mean {card.spec.preprocess.mean}, std {card.spec.preprocess.std}",
        "head": f"{card.num_classes} classes on {card.pool}" if card.num_classes else "-",
    }
    for name, value in rows.items():
        print(f"{name:<11}{value}")
    _say(found.notes)
    return 0


def _verify(args) -> int:
    from convert.verify import TOLERANCE, verify

    spec, original, differences = verify(args.src, image=args.image, **_overrules(args))
    print(f"{spec.name} against {original}, largest differences in float32:")
    print(f"{'':<12}{'absolute':>10}{'relative':>10}")
    for d in differences:
        print(f"{d.place:<12}{d.absolute:>10.1e}{d.relative:>10.1e}")
    worst = max(d.relative for d in differences)
    agree = all(d.relative <= TOLERANCE for d in differences)  # not by `worst`: max() passes over nan
    print(f"worst {worst:.1e}: " + ("the models agree" if agree else f"more than {TOLERANCE:.0e}, they DIFFER"))
    return 0 if agree else 1


def _say(lines) -> None:
    for line in lines:
        print(line)


if __name__ == "__main__":
    sys.exit(main())
