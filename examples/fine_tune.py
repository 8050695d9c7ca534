# %% [markdown]
# # Fine-tune a backbone gradually
#
# Training all weights at once on few images can destroy what a backbone has learned. *Gradual unfreezing* starts with
# the new head alone, then trains the last blocks as well, and then everything, with lower learning rates for earlier
# layers. A stage never hands on a worse model than it was given, measured on validation images.
#
# The images are drawn here: circles, squares and triangles on noise, a folder for each class, as your own images would
# be.

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


# %%
rng = np.random.default_rng(0)
SIDES = {"circle": 60, "square": 4, "triangle": 3}


def picture(sides):
    """Draw a regular polygon somewhere on a dark, noisy background; return a PIL image of 32 x 32 pixels."""
    image = Image.fromarray(rng.integers(0, 80, (32, 32, 3), np.uint8))
    x, y, radius = [*rng.uniform(13, 19, 2).tolist(), rng.uniform(8, 12)]
    colour = tuple(rng.integers(150, 256, 3).tolist())
    ImageDraw.Draw(image).regular_polygon((x, y, radius), sides, rotation=rng.uniform(-15, 15), fill=colour)
    return image


for name, sides in SIDES.items():
    (work / "images" / name).mkdir(parents=True)
    for number in range(100):
        picture(sides).save(work / "images" / name / f"{number:03d}.png")

# %% [markdown]
# ## Look before training
#
# `check-data` finds files that cannot be read, copies, and images that stand in two splits. `--dry-run` (not run here)
# shows what each stage trains, its memory and its time.

# %%
run("check-data --root images")

# %% [markdown]
# ## Train
#
# The config `gradual` has three stages. Without a folder for validation, some of the images are split off, the same
# ones each time. The stages are kept short here; without the three `epochs` each goes on until the accuracy no longer
# improves.

# %%
run(
    "train --config=gradual:dinov3_digits --config.model.weights=dinov3_digits --config.data.root=images "
    "--config.data.name=folder --config.data.batch_size=32 --config.stages[0].epochs=3 --config.stages[1].epochs=4 "
    "--config.stages[2].epochs=6 --workdir=run"
)

# %% [markdown]
# The folder `run` has the model, its metrics, and `report.html`, a page with curves, the confusion matrix and the worst
# mistakes. If a run is interrupted, the same command continues it.

# %%
history = jaxdino.History.load(work / "run")
history.plot(["loss", "val/loss"], level="epoch", file=work / "loss.png")
_, axes = plt.subplots(figsize=(8, 5))
axes.imshow(plt.imread(work / "loss.png"))
_ = axes.axis("off")

# %% [markdown]
# ## Use

# %%
for name, sides in SIDES.items():
    picture(sides).save(work / f"new_{name}.png")
run("predict --workdir run new_circle.png new_square.png new_triangle.png --top 3")

# %% [markdown]
# ## Your own images
#
# ```sh
# jaxdino check-data --root IMAGES
# jaxdino train --config=gradual:dinov3_vits16 --config.model.weights=dinov3_vits16.pth \
#     --config.data.root=IMAGES --workdir=runs/mine
# jaxdino predict --workdir runs/mine photo.jpg
# ```
#
# `IMAGES` has a folder for each class, or `train`, `val` and `test` with those folders in them ([other
# layouts](../docs/data.md)). `jaxdino configs` lists the other strategies, such as LoRA, and `jaxdino compare` tries
# several on your images ([Comparison](../docs/compare.md)). Next: [export and serve the model](export_and_serve.py).
