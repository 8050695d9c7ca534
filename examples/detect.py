# %% [markdown]
# # Find objects: boxes
#
# A detector draws a box around each object, with its class and a score. This example writes a data set of coloured
# shapes in the format of YOLO, trains a small detector on it from random weights, and draws what it finds.

# %%
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

import jaxdino

work = Path(tempfile.mkdtemp(prefix="jaxdino_"))  # all files of this example


def run(line):
    """Run a command line of jaxdino in the folder `work`."""
    print("$ jaxdino", line, flush=True)
    subprocess.run([sys.executable, "-m", "jaxdino", *shlex.split(line)], cwd=work, check=True)


# %% [markdown]
# ## The data
#
# In this format, an image has a text file of the same name with a line for each object: the class, then the centre,
# width and height of its box as shares of the image. VOC's XML and COCO's JSON are read too.

# %%
rng = np.random.default_rng(0)
SIZE = 64  # pixels


def scene():
    """Draw one to three shapes in different corners; return the image and the lines of its label file."""
    image = Image.fromarray(rng.integers(90, 140, (SIZE, SIZE, 3), np.uint8))
    draw, lines = ImageDraw.Draw(image), []
    for left, top in [(0, 0), (0, 32), (32, 0)][: rng.integers(1, 4)]:
        x, y, radius = left + rng.uniform(14, 18), top + rng.uniform(14, 18), rng.uniform(8, 13)
        box, colour = (x - radius, y - radius, x + radius, y + radius), tuple(rng.integers(150, 256, 3).tolist())
        kind = int(rng.integers(2))
        (draw.rectangle if kind else draw.ellipse)(box, fill=colour)
        lines.append(f"{kind} {x / SIZE:.4f} {y / SIZE:.4f} {2 * radius / SIZE:.4f} {2 * radius / SIZE:.4f}")
    return image, lines


(work / "shapes").mkdir()
(work / "shapes" / "data.yaml").write_text("train: images/train\nval: images/val\nnames:\n  0: circle\n  1: square\n")
for split, count in {"train": 160, "val": 40}.items():
    for kind in ("images", "labels"):
        (work / "shapes" / kind / split).mkdir(parents=True)
    for number in range(count):
        image, lines = scene()
        image.save(work / "shapes" / "images" / split / f"{number:03d}.png")
        (work / "shapes" / "labels" / split / f"{number:03d}.txt").write_text("\n".join(lines))

# %% [markdown]
# ## Train
#
# `val/map50` is the mean average precision when a box counts as found if it overlaps the true one by half: 1 is
# perfect.

# %%
run(
    "train --config=small/detection --config.data.name=yolo --config.data.root=shapes --config.data.image_size=64 "
    "--config.data.batch_size=16 --config.stages[0].epochs=30 --workdir=run"
)

# %% [markdown]
# ## Use

# %%
model = jaxdino.load(work / "run")
images = [scene()[0] for _ in range(4)]
figure, axes = plt.subplots(1, 4, figsize=(9, 2.4))
for axis, image, found in zip(axes, images, model.detect(images, threshold=0.3), strict=True):
    axis.imshow(image)
    for (left, top, right, bottom), name, score in zip(found.boxes, found.names, found.scores, strict=True):
        axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color="black", linewidth=2))
        axis.text(left, top - 1, f"{name} {score:.0%}", fontsize=7)
    axis.axis("off")
figure.savefig(work / "detections.png", bbox_inches="tight")

# %% [markdown]
# ## Your own images
#
# Mark boxes in a tool such as CVAT or Label Studio, export them as YOLO, VOC or COCO, and check them first:
#
# ```sh
# jaxdino check-data --root DIR --name coco
# jaxdino train --config=detect:dinov3_vits16 --config.data.name=coco --config.data.root=DIR --workdir=runs/boxes
# jaxdino detect --workdir runs/boxes photos --out found
# ```
#
# `small/detection`, as above, is for a computer without a GPU. [Detection](../docs/detection.md) has the settings and a
# result on real images.
