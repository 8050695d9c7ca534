"""Export a model for use elsewhere: `python -m jaxdino.export --workdir DIR --to TARGET --out DIR2`.

    stablehlo  one program for CPUs, NVIDIA and AMD GPUs and TPUs; jax, numpy and safetensors run it
    onnx       one file for onnxruntime, OpenVINO, TensorRT and others; --int8 makes it smaller and faster on CPUs
    pytorch    a checkpoint for transformers, timm or the original code, as `convert export`

The model takes uint8 images, normalised inside, and gives probabilities after the model's calibration. CLIP's text
encoder, and for text-prompted segmentation also the mask decoder, are files beside it. What was written is run and
compared with the model; a difference above 1e-4 is refused. DIR2 appears whole, or not at all.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from convert import flags
from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable

TARGETS = ("stablehlo", "onnx", "pytorch")
ONLY_FOR = {
    "resize": ("stablehlo",),
    "platforms": ("stablehlo",),
    "dtype": ("stablehlo", "pytorch"),
    "int8": ("onnx",),
    "calibration": ("onnx",),
    "labelled": ("onnx",),
    "input": ("stablehlo", "onnx"),
    "outputs": ("stablehlo", "onnx"),
    "images": ("stablehlo", "onnx"),
    "no_verify": ("stablehlo", "onnx"),
    "format": ("pytorch",),
}
"""Flags that only some targets have."""
ENDINGS = (".onnx", ".onnx.data", ".stablehlo", ".json")
WRITTEN = {"weights.safetensors", *(name + ending for name in ("model", "text", "masks") for ending in ENDINGS)}


def main(argv: list[str] | None = None) -> int:
    """Export a model; return the exit status, see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> None:
    args = _parser().parse_args(expanded(argv))
    prepare()
    keep_programs()
    export(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program("export"),
        description=described("export", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[flags.overrules()],
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", metavar="DIR", help="a training run: its best model is exported")
    which.add_argument("--weights", metavar="SRC", help="a file, folder, hub name or workdir, as jaxdino.load takes it")
    add("--to", required=True, metavar="TARGET", help=", ".join(TARGETS))
    add("--out", required=True, metavar="DIR", help="a folder that is new or empty")
    add("--overwrite", action="store_true", help="replace an earlier export in --out")
    add("--input", metavar="KIND", help="uint8 (default), normalised inside; or float32, normalised by the caller")
    add("--outputs", nargs="+", metavar="NAME", help="e.g. logits probabilities cls patches (default: of the task)")
    add("--resize", action="store_true", help="stablehlo: take images of any size, resized and cropped inside")
    add("--platforms", nargs="+", metavar="NAME", help="stablehlo: of cpu cuda rocm tpu (default all)")
    add("--dtype", help="stablehlo, pytorch: float32, bfloat16 or float16")
    add("--format", metavar="LAYOUT", help="pytorch: hf, meta, timm, ... (default that of the original weights)")
    add("--int8", metavar="HOW", help="onnx: dynamic, or static with images for calibration")
    add("--calibration", metavar="DIR", help="images for --int8 static (default the run's training images)")
    add("--labelled", metavar="DIR", help="a folder for each class, to measure int8 on (default the run's val)")
    add("--images", nargs="+", metavar="IMAGE", help="compare on these files or folders instead of random images")
    add("--no-verify", dest="no_verify", action="store_true", help="do not run and compare what was written")
    return parser


def export(args: argparse.Namespace) -> None:
    """Export as the flags say.

    Raises:
      UserError: for wrong arguments and models that cannot be exported, before anything is written; for an artefact
        that differs from the model.
    """
    check_choice("--to", args.to, TARGETS)
    for name, targets in ONLY_FOR.items():
        if getattr(args, name) and args.to not in targets:
            raise UserError(f"--{name.replace('_', '-')} is for --to {' and '.join(targets)}, not {args.to}")
    if args.workdir:
        from jaxdino.api.run_folder import check_run_folder

        check_run_folder(args.workdir)
    if args.to == "pytorch":
        return _pytorch(args)
    from convert.atomic import atomic_folder, refuse_occupied
    from jaxdino.core.writable import check_writable
    from jaxdino.data.tokenizer import FILES
    from jaxdino.serving.text_programs import programs, tokenizer_files

    _check(args)
    check_writable("--out", Path(args.out).absolute().parent)
    refuse_occupied(args.out, args.overwrite, WRITTEN.union(FILES).__contains__)
    model, made = _opened(args)
    given = _images(args, model) if args.images else None
    with atomic_folder(args.out) as folder:
        every = [made, *programs(model, made)]
        lines = (_stablehlo if args.to == "stablehlo" else _onnx)(args, model, every, given, folder)
        for file in tokenizer_files(model) if len(every) > 1 else ():
            shutil.copyfile(file, folder / file.name)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    for line in (*lines, *(f"{args.out}/{name}  {size / 1e6:.2f} MB" for name, size in sizes.items())):
        print(printable(line))
    return None


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for what is missing or unknown, before the model is opened."""
    from jaxdino.serving import onnx_file, program, stablehlo

    (stablehlo if args.to == "stablehlo" else onnx_file).check_installed()
    check_choice("--input", args.input or "uint8", program.INPUTS)
    for name in args.platforms or ():
        check_choice("--platforms", name, stablehlo.PLATFORMS)
    if args.int8:
        from jaxdino.serving import int8

        check_choice("--int8", args.int8, int8.KINDS)
    for name in ("calibration", "labelled"):
        if getattr(args, name) and not args.int8:
            raise UserError(f"--{name} is for --int8 dynamic and static")
    if args.calibration and args.int8 != "static":
        raise UserError("--calibration is for --int8 static: dynamic measures each image by itself")


def _opened(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the model and its program; what was assumed is said."""
    from convert import assumptions
    from jaxdino.api.opening import open_model
    from jaxdino.serving.program import program as program_of

    model, lines = open_model(
        args.workdir or args.weights, args.dtype or "float32", words=assumptions.ARGUMENTS, **flags.given(args)
    )
    for line in lines:
        say(line)
    how = {"pixels": args.input or "uint8", "resize": args.resize, "outputs": args.outputs or ()}
    return model, program_of(model, **how)


def _pytorch(args: argparse.Namespace) -> None:
    from convert.export import export as to_pytorch

    overrules = flags.given(args)
    found = to_pytorch(
        args.workdir or args.weights,
        args.out,
        layout=args.format,
        dtype=args.dtype,
        overwrite=args.overwrite,
        source_layout=overrules.pop("layout"),
        **overrules,
    )
    for line in found:
        print(printable(line))


def _stablehlo(args: argparse.Namespace, model: Any, programs: list[Any], given: Any, folder: Path) -> list[str]:
    from jaxdino.core.json_file import write_json
    from jaxdino.serving import checking, stablehlo

    abouts = [stablehlo.write(made, folder, tuple(args.platforms or stablehlo.PLATFORMS)) for made in programs]
    if args.no_verify:
        return ["not compared with the model: --no-verify"]
    limit = checking.LIMIT if args.dtype in (None, "float32") else checking.HALF_LIMIT
    runners = [stablehlo.load(folder, made.name) for made in programs]
    found = checking.compared(programs, runners, given, "the written program", limit)
    for made, about, one in zip(programs, abouts, found, strict=True):
        verified = {"by": "jax on this machine", "differences": one}
        write_json(folder / f"{made.name}.json", about | {"verified": verified})
    return [_compared("jax", found)]


def _onnx(args: argparse.Namespace, model: Any, programs: list[Any], given: Any, folder: Path) -> list[str]:
    import onnxruntime

    from jaxdino.core.json_file import write_json
    from jaxdino.serving import checking, int8_report, onnx_file

    made = programs[0]
    if args.int8:
        data = int8_report.Images(args.int8, model, made, args.workdir, args.calibration, args.labelled, say)
    files = [onnx_file.write(one, folder) for one in programs]
    abouts = [one.about | {"format": "onnx", "opset": onnx_file.OPSET} for one in programs]
    lines = ["not compared with the model: --no-verify"]
    if not args.no_verify:
        runtime = f"onnxruntime {onnxruntime.__version__}"
        found = checking.compared(programs, list(map(checking.onnxruntime, files)), given, runtime, checking.LIMIT)
        for about, one in zip(abouts, found, strict=True):
            about["verified"] = {"by": runtime, "differences": one}
        lines = [_compared(runtime, found)]
    if args.int8:
        facts, more = int8_report.quantised(files[0], args.int8, made, data, given)
        abouts[0]["int8"] = facts
        lines += [*more, *(f"{file.name} stays in float32: --int8 is for {files[0].name}" for file in files[1:])]
    for file, about in zip(files, abouts, strict=True):
        onnx_file.tell(file, about)
        write_json(file.with_suffix(".json"), about)
    return lines


def _compared(runtime: str, found: list[dict[str, float]]) -> str:
    worst = max(value for one in found for value in one.values())
    return f"compared with the model in {runtime}: largest difference {worst:.1e} of the output's largest value"


def _images(args: argparse.Namespace, model: Any) -> Any:
    """Return the images to compare on, uint8 or normalised as the artefact takes them."""
    import numpy as np

    from jaxdino.data.inputs import find_inputs
    from jaxdino.data.photometric import normalize

    paths = [image.path for image in find_inputs(args.images)[0]][:32]
    pixels = model.preprocess(paths)
    how = model.card.spec.preprocess
    return pixels if args.input in (None, "uint8") else np.asarray(normalize(pixels, how.mean, how.std))


def say(line: str) -> None:
    """Print a note, separate from the results."""
    print(printable(line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
