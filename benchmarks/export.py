"""ONNX files of ours against torch.onnx of timm's models, and int8: `python -m benchmarks.export [--torch]`.

Random weights, images of 224 pixels, onnxruntime on one thread; processor time, so that other work does not count.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks import harness
from convert.card import Card
from jaxdino.api.opening import face_of
from jaxdino.core.params import split
from jaxdino.core.table import format_table
from jaxdino.models.registry import get
from jaxdino.serving import checking, int8, onnx_file
from jaxdino.serving.program import program

PEERS = {
    "vit_small_patch16_224": "vit_small_patch16_224",
    "resnet18": "resnet18",
    "dinov3_convnext_tiny": "convnext_tiny",
}
"""Ours -> timm's name of the same network."""
QUANTISED = "dinov3_vits16"
PASSES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", action="store_true", help="compare with torch.onnx of timm's models")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.torch:
            rows = [["model", "ours", "torch.onnx"], *(_against_torch(one, folder) for one in PEERS)]
        else:
            rows = [["", "ms", "MB", "error of the logits"], *_quantised(folder)]
        print(format_table(rows))


def _model(name: str):
    spec = get(name)
    skeleton, flat = split(spec.build(head=spec.linear(10)))
    card = Card(spec, spec.linear(10), tuple(map(str, range(10))), digest="0" * 64)
    return face_of(card)(card, skeleton, flat)


def _against_torch(name: str, folder: Path) -> list[str]:
    import torch

    harness.allow_torchvision()
    import timm

    ours = onnx_file.write(program(_model(name), pixels="float32", outputs=["logits"]), folder)
    theirs = folder / "timm.onnx"
    network = timm.create_model(PEERS[name], num_classes=10).eval()
    free = {"images": {0: "batch"}, "logits": {0: "batch"}}
    names = dict(input_names=["images"], output_names=["logits"], dynamic_axes=free)
    torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), str(theirs), dynamo=False, opset_version=17, **names)
    image = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)
    first = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    runs = {"ours": (checking.onnxruntime(ours, 1), image), "torch": (checking.onnxruntime(theirs, 1), first)}
    return [name, *(f"{1000 * seconds:.0f} ms" for seconds in _times(runs).values())]


def _quantised(folder: Path) -> list[list[str]]:
    made = program(_model(QUANTISED), outputs=["logits"])
    rng = np.random.default_rng(0)
    batches = [made.inputs[0].random(8, rng) for _ in range(2)]
    files = {"float32": onnx_file.write(made, folder)}
    for kind in int8.KINDS:
        files[f"int8 {kind}"] = folder / f"{kind}.onnx"
        int8.quantise(files["float32"], files[f"int8 {kind}"], kind, batches)
    runners = {kind: checking.onnxruntime(file, 1) for kind, file in files.items()}
    times = _times({kind: (run, batches[0][:1]) for kind, run in runners.items()})
    right = np.asarray(runners["float32"](batches[0])["logits"])
    rows = []
    for kind, run in runners.items():
        error = np.linalg.norm(np.asarray(run(batches[0])["logits"]) - right) / np.linalg.norm(right)
        size = files[kind].stat().st_size / 1e6
        rows.append([f"{QUANTISED}, {kind}", f"{1000 * times[kind]:.0f}", f"{size:.1f}", f"{100 * error:.1f} %"])
    return rows


def _times(runs: Mapping[str, tuple[Callable, np.ndarray]]) -> dict[str, float]:
    """Return the least processor seconds of a pass, the models taking turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(PASSES):
        for name, (run, images) in runs.items():
            start = time.process_time()
            run(images)
            found[name].append(time.process_time() - start)
    return {name: min(times[1:]) for name, times in found.items()}


if __name__ == "__main__":
    main()
