# %% [markdown]
# # A classifier in a minute: cached features and a probe
#
# The quickest way to a classifier, and the usual test of a backbone, is a *probe*: the backbone is not changed, its
# features are computed once, and only a small head is trained on them. Since the features are kept, hundreds of heads
# with different settings take seconds.
#
# This example uses the backbone and the handwritten digits that come with jaxdino. Commands are started from Python
# here, so that it runs as it is; in a terminal you type what is printed after `$`.

# %%
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
# ## Features
#
# `extract` runs the backbone over the data set, and writes one row of numbers for each image.

# %%
run("extract --weights dinov3_digits --out features")

# %% [markdown]
# ## Heads
#
# `probe` trains heads of several kinds with many settings: a linear classifier, ridge regression, the nearest class
# mean and the nearest neighbours. Each is chosen by its accuracy on the *validation* images. The *test* images are used
# once, for what was chosen, so that the last column is an honest estimate, with its 95 % interval.

# %%
run("probe --features features --out probed --methods linear ridge nearest_mean knn --steps 500")

# %% [markdown]
# ## Use
#
# The best head was put back onto the backbone: `probed/best` is an ordinary model. The sixth image is a badly written
# 5, and one of the few errors. The best head here is a ridge regression: the order of its classes counts, but its
# percentages are low even where it is right, because it is not fitted to probabilities.

# %%
digits = load_digits()
images = [np.rint(image * 255 / 16).astype(np.uint8) for image in digits.images[:8]]
model = jaxdino.load(work / "probed" / "best")
figure, axes = plt.subplots(1, 8, figsize=(9, 1.6))
for axis, image, classes in zip(axes, images, model.predict(images, topk=1), strict=True):
    name, probability = classes[0]
    axis.imshow(image, cmap="gray")
    axis.set_title(f"{name}: {probability:.0%}")
    axis.axis("off")
figure.savefig(work / "predictions.png", bbox_inches="tight")

# %% [markdown]
# ## Your own images
#
# Put the images of each class into a folder of its own, `IMAGES/cat/*.jpg`, `IMAGES/dog/*.jpg`, and give the folder and
# your weights:
#
# ```sh
# jaxdino extract --weights dinov2_vits14.pth --root IMAGES --out features
# jaxdino probe --features features --out probed
# jaxdino predict --workdir probed photo.jpg
# ```
#
# `--methods all` tries all methods ([Probing](../docs/probing.md)). If the probe is good but not good enough, train the
# backbone as well: [gradual fine-tuning](fine_tune.py) starts from `--config.model.weights=probed/best`.
