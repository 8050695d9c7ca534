# %% [markdown]
# # Masks for a text
#
# Three networks work together here: a DINO backbone sees the image, CLIP's text encoder reads the words, and SAM's
# decoder draws the mask of what the words name. The projections between them are new, and are trained on images with
# masks.
#
# This example trains on coloured shapes that jaxdino draws, with tiny models, some of them from random numbers. That is
# enough to see how it works: all four stages take some minutes, so only a short form of the first is run.

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
# ## Train
#
# `val/miou` is the overlap of the predicted and the true masks: 0 is none, 1 is perfect. Four epochs only show that it
# learns; the whole training, `jaxdino train --config=clipdinosam`, takes some minutes and reaches 0.69 on these images.

# %%
run("train --config=clipdinosam --config.stage=1 --config.stages[0].epochs=4 --workdir=run")

# %% [markdown]
# ## Ask for masks
#
# The model has learned from single names such as "red circle". This image was not in its training data.

# %%
image = Image.new("RGB", (64, 64), (120, 120, 120))
draw = ImageDraw.Draw(image)
draw.ellipse((6, 8, 28, 30), fill=(214, 45, 40))
draw.rectangle((36, 34, 56, 54), fill=(40, 80, 210))
image.save(work / "scene.png")

prompts = ["red circle", "blue square", "green triangle"]
model = jaxdino.load(work / "run")
found = model.segment(image, prompts)
figure, axes = plt.subplots(1, 4, figsize=(8, 2.2))
axes[0].imshow(image)
axes[0].set_title("image")
for axis, prompt, logits in zip(axes[1:], prompts, found.logits, strict=True):
    axis.imshow(image)
    axis.imshow(logits, cmap="coolwarm", vmin=-np.abs(logits).max(), vmax=np.abs(logits).max(), alpha=0.7)
    axis.set_title(prompt)
for axis in axes:
    axis.axis("off")
figure.savefig(work / "masks.png", bbox_inches="tight")
for prompt, mask, score in zip(prompts, found.masks, found.scores, strict=True):
    print(f"{prompt}: {mask.mean():.0%} of the image, score {score:.2f}")

# %% [markdown]
# Red is where the model sees the object, blue where not. After so short a training it finds the strongest shape for
# every prompt; telling the prompts apart comes later. The same from a terminal, with files for other programs:

# %%
run('segment --workdir run --prompt "red circle" --prompt "blue square" scene.png --out masks')

# %% [markdown]
# ## Your own images
#
# You need images with masks of what you want to find, PNGs of the same name or COCO's JSON, and the three published
# models:
#
# ```sh
# jaxdino train --config=clipdinosam:dinov3_vits16 --config.model.weights=dinov3_vits16.pth \
#     --config.text.weights=openai/clip-vit-base-patch16 --config.sam.weights=sam_vit_b_01ec64.pth \
#     --config.data.root=DIR --config.prompts.prompt=nucleus --workdir=runs/nuclei
# ```
#
# [The data](../docs/segmentation_data.md) and [the stages](../docs/segmentation.md) have pages of their own. For a
# fixed list of classes, [semantic segmentation](../docs/semantic_segmentation.md) is simpler; for one mask for each
# object, [instance segmentation](../docs/instances.md).
