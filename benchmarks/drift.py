"""How often the drift watch raises an alarm: on windows of held-out images, and on the same images corrupted.

    jaxdino serve --workdir runs/mine --make_reference val
    python -m benchmarks.drift --workdir runs/mine --split test

The windows are drawn from the split with different images in each; the corruptions are those of ImageNet-C.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.table import format_table
from jaxdino.evaluation.corruptions import CORRUPTIONS, corrupted
from jaxdino.evaluation.finished_run import open_run
from jaxdino.serving.server import catalogue
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.server.work import Asked
from jaxdino.serving.watching import reference
from jaxdino.serving.watching.drift import sample_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--severities", type=int, nargs="*", default=[1, 3, 5])
    args = parser.parse_args()
    place = catalogue.places(args.workdir, [])[0]
    served = catalogue.opened(place, ServeSettings(), print)
    of = reference.load(args.workdir, served.model.digest)
    work, rng = served.works["predict"], np.random.default_rng(0)
    records = open_run(args.workdir, print).source.split(args.split).records
    images = np.stack([work.read(record, Asked()) for record in records])

    def seen(pixels: np.ndarray) -> list:
        found = []
        for first in range(0, len(pixels), 32):
            results = work.compute(list(pixels[first : first + 32]))
            found += [work.answer("predict", result, Asked())[1] for result in results]
        return found

    def row(name: str, severity: int | str, pixels: np.ndarray) -> list[str]:
        every = seen(pixels)
        windows = [rng.choice(len(every), min(of.window, len(every)), replace=False) for _ in range(args.windows)]
        found = [of.measure(sample_of([every[place] for place in window])) for window in windows]
        alarms = sum(bool(of.alarms(one)) for one in found)
        means = [f"{np.mean([one[measure] for one in found]):.4f}" for measure in of.thresholds]
        return [name, str(severity), f"{alarms} of {args.windows}", *means]

    rows = [["threshold", "", "", *(f"{limit:.4f}" for limit in of.thresholds.values())], row("clean", "", images)]
    for name in CORRUPTIONS:
        for severity in args.severities:
            key, places = jax.random.key(0), jnp.arange(len(images), dtype=jnp.int32)
            pixels = corrupted(name, severity, key, jnp.asarray(images, jnp.float32) / 255, places)
            rows.append(row(name, severity, np.asarray(pixels * 255).round().astype(np.uint8)))
    print(format_table([["images", "severity", "alarms", *of.thresholds], *rows]))


if __name__ == "__main__":
    main()
