# %% [markdown]
# # Load a model and look at what it sees
#
# A *backbone* is a neural network that turns an image into numbers, called *features*. This example loads one, shows
# which parts of an image it attends to, and finds the parts of another image that look the same to it.
#
# It uses a small vision transformer whose weights come with jaxdino, and scikit-learn's images of handwritten digits,
# so nothing is downloaded.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import jaxdino

work = Path(tempfile.mkdtemp(prefix="jaxdino_"))  # the pictures of this example are kept here
digits = load_digits()
images = [np.rint(image * 255 / 16).astype(np.uint8) for image in digits.images[:200]]  # 8 x 8 pixels, grey

# %% [markdown]
# `jaxdino.load` takes the name of a published model, a file of PyTorch weights (`.pth`, `.safetensors`), a folder from
# Hugging Face, or the folder of a training run.

# %%
model = jaxdino.load("dinov3_digits")
print(model)

# %% [markdown]
# ## Features
#
# `preprocess` brings images to the size that the model was trained with. Paths, PIL images and arrays may be mixed.
# Calling the model gives one vector for each image (`cls`), and one for each patch of 4 x 4 pixels (`patches`).

# %%
pixels = model.preprocess(images)
output = model(pixels)
print("images  ", pixels.shape, pixels.dtype)
print("cls     ", output.cls.shape)
print("patches ", output.patches.shape)

# %% [markdown]
# Images that look alike have similar vectors. So without any training, the nearest image is mostly the same digit:

# %%
vectors = np.array(output.cls)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
cosines = vectors @ vectors.T
np.fill_diagonal(cosines, -1)  # an image is not its own neighbour
nearest = cosines.argmax(axis=1)
same = digits.target[nearest] == digits.target[:200]
print(f"the nearest image shows the same digit for {same.sum()} of 200 images")

# %% [markdown]
# ## Attention
#
# In the last block, the class token collects information from the patches. `attention` says from which: bright patches
# count most. Each of the three *heads* looks at something else.

# %%
attention = np.asarray(model.attention(pixels[:5]))  # (images, heads, rows, columns)
figure, axes = plt.subplots(5, 4, figsize=(6, 7.5))
for row, (image, heads) in enumerate(zip(pixels, attention, strict=False)):
    axes[row, 0].imshow(image)
    for column, head in enumerate(heads, start=1):
        axes[row, column].imshow(head, cmap="magma")
for axis, title in zip(axes[0], ("image", "head 1", "head 2", "head 3"), strict=True):
    axis.set_title(title)
for axis in axes.flat:
    axis.axis("off")
figure.savefig(work / "attention.png", bbox_inches="tight")

# %% [markdown]
# ## Similar parts
#
# `similarity` compares every patch of one image with every patch of another one. Here is the patch in the white square
# compared with a second picture of the same digit, and with another digit.

# %%
first, second, other = 0, nearest[0], 1
row, column = 2, 5  # the patch that is compared
figure, axes = plt.subplots(1, 3, figsize=(7, 2.6))
axes[0].imshow(pixels[first])
axes[0].add_patch(plt.Rectangle((column * 4 - 0.5, row * 4 - 0.5), 4, 4, fill=False, color="white", linewidth=2))
axes[0].set_title("a patch")
for axis, place in zip(axes[1:], (second, other), strict=True):
    found = model.similarity(pixels[[first]], pixels[[place]])[0, row, column]
    axis.imshow(pixels[place])
    axis.imshow(found, cmap="magma", alpha=0.7, extent=(-0.5, 31.5, 31.5, -0.5))
    axis.set_title(f"in a {digits.target[place]}")
for axis in axes:
    axis.axis("off")
figure.savefig(work / "similarity.png", bbox_inches="tight")
print("pictures are in", work)

# %% [markdown]
# ## Your own images
#
# Replace the model by the weights that you have, and the arrays by paths:
#
# ```python
# model = jaxdino.load("dinov2_vits14.pth")
# pixels = model.preprocess(["photo.jpg", "other.png"])
# ```
#
# Patches of a larger model are 14 or 16 pixels wide: replace the 4 in the white square. ConvNeXts and ResNets have no
# attention; `similarity` works for them too. To search a whole folder for similar images, see
# [Search](../docs/search.md). Next: [train a classifier on these features](probe.py).
