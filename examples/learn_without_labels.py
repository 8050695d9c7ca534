# %% [markdown]
# # Train a backbone without labels
#
# Labels are expensive, images are not. *Self-distillation* trains a backbone on images alone: a *student* network sees
# one crop of an image and predicts what a *teacher* network says of another crop of it. The teacher is a moving
# average of the student, so both start from random weights and improve together. What stays the same between crops is
# what the image shows.
#
# Here a small vision transformer learns from 1,079 handwritten digits. The labels of these data serve only to measure
# what was learned: nothing is trained on them.

# %%
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import jaxdino

work = Path(tempfile.mkdtemp(prefix="jaxdino_"))  # all files of this example


def run(line):
    """Run a command line of jaxdino in the folder `work`."""
    print("$ jaxdino", line, flush=True)
    subprocess.run([sys.executable, "-m", "jaxdino", *shlex.split(line)], cwd=work, check=True)


# %% [markdown]
# ## Train
#
# Twelve epochs from random weights, at a tenth of the usual length. `--config=ssl` is DINOv3's method; after every
# second epoch the *k-NN accuracy* is measured: each validation image gets the class of its nearest training images, by
# the features. It rises although no label is trained on. The loss says little: teacher and student change together.

# %%
run("train --config=ssl --config.stages[0].epochs=12 --config.evaluation.every_epochs=2 --workdir=run")

# %% [markdown]
# ## What was learned
#
# `evaluate` compares the features of the teacher with those of the same network before training, and with the pixels
# themselves, on the *test* images. Twelve epochs on a thousand images are far too few to beat the pixels of digits,
# which are centred and of one size; of photographs, the pixels say almost nothing.

# %%
run("evaluate --weights run --random --split test")

# %%
rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
measured = [(row["epoch"], row["val/knn_accuracy"]) for row in rows if "val/knn_accuracy" in row]
figure, axis = plt.subplots(figsize=(5, 3))
axis.plot(*zip(*measured, strict=True), marker="o")
axis.set_xlabel("epoch")
axis.set_ylabel("k-NN accuracy, validation")
figure.savefig(work / "knn.png", bbox_inches="tight")

# %% [markdown]
# ## Neighbours
#
# The run is an ordinary model. Images that look alike to it have similar features: left a digit, and then the five
# nearest others. The backbone has never been told that there are ten kinds.

# %%
digits = load_digits()
images = [np.rint(image * 255 / 16).astype(np.uint8) for image in digits.images[-700:]]
labels = digits.target[-700:]
model = jaxdino.load(work / "run")
vectors = np.array(model(model.preprocess(images)).cls)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
cosines = vectors @ vectors.T
np.fill_diagonal(cosines, -1)  # an image is not its own neighbour
same = labels[cosines.argmax(axis=1)] == labels
print(f"the nearest image shows the same digit for {same.mean():.1%} of {len(labels)} images")

figure, axes = plt.subplots(4, 6, figsize=(6, 4))
for row, place in zip(axes, (0, 3, 5, 8), strict=True):
    for axis, other in zip(row, [place, *np.argsort(-cosines[place])[:5]], strict=True):
        axis.imshow(images[other], cmap="gray")
        axis.axis("off")
axes[0, 0].set_title("digit")
axes[0, 1].set_title("nearest")
figure.savefig(work / "neighbours.png", bbox_inches="tight")

# %% [markdown]
# ## Your own images
#
# A few thousand images are little for training from random weights. Start from released weights and continue on your
# images, which need no labels and no order:
#
# ```sh
# jaxdino train --config=ssl_continue:dinov3_vits16 --config.model.weights=dinov3_vits16.pth \
#     --config.data.name=images --config.data.root=IMAGES --workdir=runs/mine
# ```
#
# With `--config.evaluation.root=LABELLED`, a folder with a few labelled images for each class, the k-NN accuracy is
# measured too. Then [a probe](probe.py) or [fine-tuning](fine_tune.py) makes a classifier of it:
# `--weights runs/mine`. [Self-distillation](../docs/self_distillation.md) has the settings, a network for few images,
# and what was measured.
