# %% [markdown]
# # Export a model to ONNX, and serve it
#
# A trained model can leave Python in two ways: as a file that other runtimes read (ONNX here; StableHLO and PyTorch
# also work), or as a server that answers over HTTP. Both prepare images exactly as in training.
#
# `pip install 'jaxdino[export,serve]'` installs what this example needs.

# %%
import json
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from sklearn.datasets import load_digits

import jaxdino

work = Path(tempfile.mkdtemp(prefix="jaxdino_"))  # all files of this example


def run(line):
    """Run a command line of jaxdino in the folder `work`."""
    print("$ jaxdino", line, flush=True)
    subprocess.run([sys.executable, "-m", "jaxdino", *shlex.split(line)], cwd=work, check=True)


# %% [markdown]
# ## A model
#
# A head on the embedded backbone, trained for two epochs on handwritten digits.

# %%
run("train --config=linear --config.stages[0].epochs=2 --workdir=run")

# %% [markdown]
# ## Export
#
# What was written is run and compared with the model before it is kept. `model.json` says what goes in and what comes
# out.

# %%
run("export --workdir run --to onnx --out exported")

# %% [markdown]
# The next cell needs onnxruntime and numpy alone, not jaxdino: the names of the classes, the size of the images and the
# names of the outputs are in the file.

# %%
session = onnxruntime.InferenceSession(work / "exported" / "model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["jaxdino"])
_, height, width, _ = about["input"]["shape"]

digits = load_digits()
pictures = [Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).convert("RGB") for image in digits.images[:5]]
batch = np.stack([np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)) for picture in pictures])
found = dict(zip(about["outputs"], session.run(about["outputs"], {"images": batch}), strict=True))
names = [about["classes"][place] for place in found["probabilities"].argmax(axis=1)]
print("onnxruntime:", names, "true:", digits.target[:5].tolist())

# %% [markdown]
# The same from jaxdino itself:

# %%
print("jaxdino:    ", [classes[0][0] for classes in jaxdino.load(work / "run").predict(pictures, topk=1)])

# %% [markdown]
# ## Serve
#
# The server is started in the background. It is ready when all batch sizes are compiled. Port 0 takes one that is free,
# and the log says which.

# %%
command = [sys.executable, "-m", "jaxdino", "serve", "--workdir", "run", "--port", "0", "--max_batch", "4"]
print("$ jaxdino", *command[3:], flush=True)
with open(work / "server.log", "w") as log:
    server = subprocess.Popen(command, cwd=work, stdout=log, stderr=log)
started = []
while not any(line["event"] == "ready" for line in started):
    if server.poll() is not None:
        raise SystemExit((work / "server.log").read_text())
    time.sleep(0.5)
    written = (work / "server.log").read_text().splitlines()
    started = [json.loads(line) for line in written if line.endswith("}")]
port = next(line["port"] for line in started if line["event"] == "listening")
address = f"http://127.0.0.1:{port}"

# %% [markdown]
# An image is the body of a request. In a terminal: `curl --data-binary @digit.png -H 'Content-Type: image/png'
# http://127.0.0.1:8000/predict`, with your port. In a browser, <http://127.0.0.1:8000> is a page on which you can drop
# an image, and `/docs` describes all requests.

# %%
pictures[3].save(work / "digit.png")
request = urllib.request.Request(
    f"{address}/predict", data=(work / "digit.png").read_bytes(), headers={"Content-Type": "image/png"}
)
answer = json.loads(urllib.request.urlopen(request, timeout=60).read())
print(json.dumps(answer, indent=1)[:400])

# %% [markdown]
# On SIGTERM the server finishes what it has begun, and ends.

# %%
server.terminate()
print("the server ended with status", server.wait(60))

# %% [markdown]
# ## Your own model
#
# ```sh
# jaxdino export --workdir runs/mine --to onnx --out exported
# jaxdino serve --workdir runs/mine --port 8000
# ```
#
# [Export](../docs/export.md) covers int8, StableHLO and other runtimes; [Serving](../docs/serving.md) batches, limits,
# keys, drift, containers and Kubernetes.
