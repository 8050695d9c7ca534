"""Run the protocols of configs/benchmarks on stand-in data, with the embedded model of 32 pixels.

    python -m benchmarks.protocols --out FOLDER                   # all; or some: --names imagenet montgomery

Each data set is made of scikit-learn's digits in the layout that the config's docstring describes (protocol_data.py).
Then every command of the docstring runs as it stands there, in the folder of the data, with the model replaced by the
embedded one and the training shortened. The figures say that a protocol works from end to end, and nothing about the
data sets. Not run: the loop over learning rates of `imagenet`, which repeats its first command.
"""

import argparse
import ast
import json
import re
import shlex
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from benchmarks.protocol_data import LAYOUTS, Digits
from jaxdino.settings import config_search

MODEL = "dinov3_digits"
SHORT = ("--config.data.batch_size=32", "--config.data.num_threads=1", "--config.stages[0].steps=40")
PIXELS = (
    *("--config.stages[0].steps=16", "--config.stages[0].schedule.warmup_steps=4"),
    *("--config.data.batch_size=8", "--config.data.image_size=64"),
)
SHORTER = {
    "isic2019": ("--config.stages[1].steps=20", "--config.stages[2].steps=20"),
    "ade20k": PIXELS,
    "voc2012": PIXELS,
    "nyu_depth": PIXELS,
}
IMAGES = {"montgomery": 138, "ade20k": 32, "voc2012": 32, "nyu_depth": 32}  # of train; others 600
FIGURES = re.compile(r"^(val|test)/(accuracy|balanced_accuracy|macro_auc|miou|rmse)$")


def docstring(name: str) -> str:
    """Return the docstring of a config, as it is written."""
    file = config_search.INSTALLED / "benchmarks" / f"{name}.py"
    return ast.get_docstring(ast.parse(file.read_text("utf-8")), clean=False) or ""


def make(name: str, folder: Path, count: int, side: int = 32) -> Path:
    """Write the data of a protocol below `folder`, run the docstring's conversion; return what `data.root` is."""
    doc = docstring(name)
    found = re.search(r"--config\.data\.root=(\S+)", doc)
    assert found, f"the docstring of {name} has no --config.data.root"
    root = folder / found[1]
    top = root.parent if root.suffix == ".csv" else root
    top.mkdir(parents=True)
    LAYOUTS[name](top, Digits(side), count)
    if script := re.search(r"^    python - (\S+) <<'END'\n(.*?)\n    END\n", doc, re.DOTALL | re.MULTILINE):
        line = [sys.executable, "-", script[1]]
        subprocess.run(line, input=textwrap.dedent(script[2]), text=True, check=True, cwd=folder)
    if cut := re.search(r"^    (cut .*)$", doc, re.MULTILINE):
        subprocess.run(cut[1], shell=True, check=True, cwd=folder)
    return root


def commands(name: str) -> list[list[str]]:
    """Return the commands of a docstring as lists of words, `train` in place of the module; loops are left out."""
    found = re.findall(r"^    ((?:python -m jaxdino\.main|jaxdino)(?:[^\\\n]|\\\n)*)$", docstring(name), re.MULTILINE)
    lines = [re.sub(r"^(python -m jaxdino\.main|jaxdino train)", "train", one) for one in found]
    return [[word for word in shlex.split(one) if word not in ("jaxdino", "\n")] for one in lines]


def shortened(name: str, words: list[str], number: int) -> list[str]:
    """Return a command with the embedded model, and a training short; `number` counts the trainings of a protocol."""
    words = [re.sub(r"dinov\d_vit\w+(\.pth)?", MODEL, word) for word in words]
    if words[0] == "train":
        words += [f"--workdir=RUN{number or ''}", *SHORT, *SHORTER.get(name, ())]
    return words + (["--json", "frozen.json"] if words[:2] == ["evaluate", "--weights"] else [])


def run(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command of jaxdino in `folder`; return its exit status and what it printed."""
    line = [sys.executable, "-m", "jaxdino.cli", *words]
    done = subprocess.run(line, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def read(file: Path) -> dict:
    """Return the content of a JSON file, {} where there is none."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def shown(name: str, value: float, n: int, low: float | None, high: float | None) -> str:
    """Format a figure with its interval and number of images."""
    return f"{name} {value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else "") + f", n={n}"


def figures(words: list[str], folder: Path) -> list[str]:
    """Return the figures that a command wrote below `folder`."""
    if words[0] == "train":
        (workdir,) = [word.removeprefix("--workdir=") for word in words if word.startswith("--workdir=")]
        found = read(folder / workdir / "summary.json")
        last = {**(found.get("stages") or [{}])[-1], **found}
        return [f"{name} {value:.3f}" for name, value in last.items() if FIGURES.search(name)]
    if words[:2] == ["evaluate", "--weights"]:
        found = read(folder / "frozen.json")
        row, n = found["rows"][0], found["images"]["val"]
        said = [shown(f"k-NN {k}", value, n, *row["knn_interval"][k]) for k, value in row["knn_accuracy"].items()]
        return said + (
            [shown("linear", row["linear"]["accuracy"], n, *row["linear"]["interval"])] if row["linear"] else []
        )
    if words[:2] == ["evaluate", "--workdir"]:
        whole = read(folder / "RUN/evaluation/evaluation.json")["metrics"]["whole"]
        names = [name for name in ("accuracy", "balanced_accuracy", "macro_auc") if name in whole]
        return [
            shown(name, whole[name]["value"], whole[name]["n"], whole[name]["low"], whole[name]["high"])
            for name in names
        ]
    if words[0] == "probe":
        found = read(folder / "RESULTS/summary.json")
        test, name = found["test"], found["monitor"].replace("val", "test")
        return [
            shown(
                f"{name} by {found['chosen']['method']}", test["value"], test["n"], *(test["interval"] or (None, None))
            )
        ]
    return []


def protocol(name: str, out: Path) -> bool:
    """Run the commands of a protocol; print each as a row of a table. Returns whether all of them succeeded."""
    folder, trained, good = out / name, 0, True
    make(name, folder, IMAGES.get(name, 600))
    for written in commands(name):
        words = shortened(name, written, trained)
        trained += words[0] == "train"
        begun = time.perf_counter()
        code, said = run(words, folder)
        (folder / f"{words[0]}.log").write_text(said)
        found = f"failed ({code}): {said[-2000:]}" if code else "; ".join(figures(words, folder)) or "done"
        print(f"| {name} | `{shlex.join(written)}` | {time.perf_counter() - begun:.0f} | {found} |", flush=True)
        good = good and not code
    return good


def main() -> int:
    """Make the data and run the protocols; return 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--names", nargs="+", choices=sorted(LAYOUTS), default=list(LAYOUTS))
    args = parser.parse_args()
    print(
        "| protocol | command of its docstring | seconds | figures on the stand-in data |\n| --- | --- | ---: | --- |"
    )
    return 0 if all([protocol(name, Path(args.out).absolute()) for name in args.names]) else 1


if __name__ == "__main__":
    sys.exit(main())
