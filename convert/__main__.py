"""`python -m convert import | export | inspect | verify | list`: convert weights between PyTorch and jaxdino."""

import argparse
import sys

from convert import assumptions, flags
from jaxdino.core.arguments import Parser
from jaxdino.core.command import expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.words import printable


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 if verify found a difference, or that of `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    args = _parser().parse_args(expanded(argv))
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog=program("convert"), description=__doc__.split(":")[1].strip())
    commands = parser.add_subparsers(required=True, metavar="command")
    overrules, of_network = flags.overrules(), flags.overrules(without=("head_blocks",))
    src_help = "a .pth or .safetensors file, a Hugging Face folder or hub name"

    command = commands.add_parser("import", parents=[overrules], help="PyTorch checkpoint -> jaxdino folder")
    command.add_argument("src", metavar="SRC", help=src_help)
    command.add_argument("--out", required=True, metavar="DIR")
    command.add_argument(
        "--whole", action="store_true", help="a training checkpoint: student, teacher, their heads and centres"
    )
    command.add_argument(
        "--head", metavar="FILE", help="a linear head, classification or segmentation, in a separate file"
    )
    command.add_argument("--drop_head", action="store_true", help="leave out a head")
    command.add_argument(
        "--in_channels", type=int, metavar="N", help="channels of the images: the first convolution is adapted"
    )
    command.add_argument("--overwrite", action="store_true")
    command.add_argument("--fsdp", type=int, metavar="N", help="write each array as N slices, from N devices (-1: all)")
    command.set_defaults(run=_import)

    command = commands.add_parser(
        "export", parents=[overrules], help="jaxdino folder, workdir or checkpoint -> PyTorch checkpoint"
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("src", metavar="SRC", nargs="?", help="a folder made by import, or a PyTorch checkpoint")
    which.add_argument("--workdir", metavar="DIR", help="a training run: its best model is exported")
    command.add_argument("--part", metavar="PART", help="part of a segmenter to export: dino or clip")
    command.add_argument("--adapter", action="store_true", help="only the LoRA adapter of --part, for PEFT")
    command.add_argument(
        "--format", metavar="LAYOUT", help="hf, meta, timm, ...; default: that of the original weights"
    )
    command.add_argument("--out", required=True, metavar="DIR")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: unchanged")
    command.add_argument(
        "--max_shard_size", type=_size, default=5.0, metavar="GB", help="largest size of a safetensors shard"
    )
    command.add_argument("--overwrite", action="store_true")
    command.set_defaults(run=_export)

    command = commands.add_parser("inspect", parents=[overrules], help="model, layout, parameters, dtype, digest")
    command.add_argument("src", metavar="SRC", help=src_help + ", a jaxdino folder or a workdir")
    command.add_argument(
        "--parameters", action="store_true", help="also a table of all parameters: shape, dtype, size, mean, std"
    )
    command.set_defaults(run=_inspect)

    command = commands.add_parser("list", help="every model, its layouts, parameters and measured parity")
    command.add_argument("--doc", metavar="FILE", help="write the parity table into this Markdown file instead")
    command.set_defaults(run=_list)

    command = commands.add_parser(
        "verify", parents=[of_network], help="compare the PyTorch original with ours on an image"
    )
    command.add_argument("src", metavar="SRC", help=src_help)
    command.add_argument("--image", metavar="FILE", help="default: a fixed random image")
    command.set_defaults(run=_verify)
    return parser


def _size(text: str) -> float:
    """Parse a finite number above zero."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above zero")
    return float(text)


def _import(args) -> int:
    from convert.load import open_pretrained
    from convert.store import refuse_foreign, save_model

    if args.whole:
        return _import_whole(args)
    refuse_foreign(args.out, args.overwrite)
    with open_pretrained(
        args.src, head=args.head, drop_head=args.drop_head, in_channels=args.in_channels, **flags.given(args)
    ) as opened:
        card = save_model(
            args.out,
            opened.card,
            opened.flat,
            companions=opened.companions,
            mesh=_mesh(args.fsdp),
            overwrite=args.overwrite,
        )
    _say(opened.notes)
    print(f"imported {card.spec.name} ({card.layout} layout) into {args.out}")
    return 0


def _import_whole(args) -> int:
    from convert.training_checkpoint import main_import

    given = {"--prefix": args.prefix, "--layout": args.layout, "--head": args.head, "--drop_head": args.drop_head}
    given |= {"--in_channels": args.in_channels, "--fsdp": args.fsdp}
    given |= {"--pos_grid": args.pos_grid, "--pool": args.pool, "--image_size": args.image_size}
    given |= {"--head_blocks": args.head_blocks}
    if wrong := [flag for flag, value in given.items() if value]:
        raise UserError(f"--whole takes a training checkpoint unchanged: remove {', '.join(wrong)}")
    _say(main_import(args.src, args.out, overwrite=args.overwrite, model=args.model, num_heads=args.num_heads))
    return 0


def _mesh(fsdp: int | None):
    """Return the mesh of all devices with `fsdp` slices of each array; None writes whole arrays."""
    if fsdp is None:
        return None
    from jaxdino.core.sharding import make_mesh

    return make_mesh(fsdp=fsdp)


def _export(args) -> int:
    from convert.export import export
    from convert.training_checkpoint import FORMATS, is_training, main_export

    if args.adapter:
        return _export_adapter(args)
    if args.src and not args.part and is_training(args.src) and args.format in (None, *FORMATS):
        _say(main_export(args.src, args.out, layout=args.format or "dino", overwrite=args.overwrite))
        return 0
    overrules = flags.given(args)
    _say(
        export(
            args.workdir or args.src,
            args.out,
            layout=args.format,
            dtype=args.dtype,
            max_shard_bytes=int(args.max_shard_size * 1e9),
            overwrite=args.overwrite,
            part=args.part,
            source_layout=overrules.pop("layout"),
            **overrules,
        )
    )
    return 0


def _export_adapter(args) -> int:
    from convert.parts import export_adapter

    if not args.part:
        raise UserError("--adapter needs a part of a segmenter: give --part dino or --part clip")
    if args.dtype:
        raise UserError(f"--dtype {args.dtype}: an adapter keeps its dtype; leave out --dtype")
    src, layout = args.workdir or args.src, args.format or "hf"
    _say(export_adapter(src, args.out, part=args.part, layout=layout, overwrite=args.overwrite))
    return 0


def _inspect(args) -> int:
    from contextlib import ExitStack

    import numpy as np

    from convert.describe import UnknownPool, described
    from convert.hub import find
    from convert.load import open_pretrained
    from convert.parts import shape_of
    from convert.store import is_model
    from jaxdino.core.bars import by_bytes
    from jaxdino.core.params import Digest

    head = None
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(open_pretrained(args.src, **flags.given(args)))
        except UnknownPool as err:
            head = f"not read: {err}"
            opened = stack.enter_context(open_pretrained(args.src, drop_head=True, **flags.given(args)))
        digest, kept = Digest(), {}
        for path, leaf in by_bytes(opened.flat, "reading"):
            array = np.asarray(leaf)
            digest.add(path, array)
            if args.parameters:
                kept[path] = array
    card, spec = opened.card, opened.card.spec
    ours = f"jaxdino (from {card.layout})" if card.layout else "jaxdino"
    rows = {
        "model": spec.name,
        "layout": ours if is_model(find(args.src)) else card.layout,
        "source": f"{card.source.get('path', '-')} {card.source.get('prefix', '')}".strip(),
        "parameters": f"{opened.skeleton.num_params:,}",
        "dtype": ", ".join(sorted({opened.flat[path].dtype.name for path in opened.skeleton.paths("param")})),
        "digest": digest.value(),
        "shape": shape_of(spec),
        "input": f"{spec.preprocess.size}, mean {spec.preprocess.mean}, std {spec.preprocess.std}"
        + (f", sixteen_bit {deep}" if (deep := spec.preprocess.sixteen_bit) != "auto" else ""),
        "head": head or described(card.head),
    }
    for name, value in rows.items():
        print(printable(f"{name:<11}{value}"))
    if args.parameters:
        from clu.parameter_overview import get_parameter_overview

        print(get_parameter_overview(kept))
    _say(dict.fromkeys((*opened.notes, *assumptions.lines(card.assumed))))
    return 0


def _list(args) -> int:
    from convert import listing

    if args.doc:
        listing.write_table(args.doc)
    else:
        _say(listing.lines())
    return 0


def _verify(args) -> int:
    from convert.verify import TOLERANCE, verify

    spec, original, differences, unchecked = verify(
        args.src, image=args.image, **flags.given(args, without=("head_blocks",))
    )
    print(f"{spec.name} against {original}, largest differences in float32:")
    wide = max(len(d.place) for d in differences) + 2
    print(f"{'':<{wide}}{'absolute':>10}{'relative':>10}")
    for d in differences:
        print(f"{d.place:<{wide}}{d.absolute:>10.1e}{d.relative:>10.1e}")
    worst = max(d.relative for d in differences)
    agree = all(d.relative <= TOLERANCE for d in differences)  # not by `worst`: max() ignores nan
    print(f"worst {worst:.1e}: " + ("the models agree" if agree else f"more than {TOLERANCE:.0e}, they DIFFER"))
    _say(f"not checked: {fact}" for fact in unchecked)
    return 0 if agree else 1


def _say(lines) -> None:
    for line in lines:
        print(printable(line))


if __name__ == "__main__":
    sys.exit(main())
