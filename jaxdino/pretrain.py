"""Makes the embedded weights: masked prediction on the training digits, then export as a Hugging Face folder.

    python -m jaxdino.pretrain --out=jaxdino/assets/dinov3_digits

The run is seeded, never sees a label, nor an image of the validation and test splits, and takes some minutes on
two cores. The folder it writes is what `--config=configs/gradual.py` starts from.
"""

import argparse
import sys
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from convert.export import export
from convert.store import Card, save_model
from jaxdino.core.params import Flat, Skeleton, bind, split
from jaxdino.data import device_aug, pipeline
from jaxdino.data.sources import DataConfig, load_source
from jaxdino.models.spec import ModelSpec
from jaxdino.models.vits import DIGITS
from jaxdino.objectives.masked import Masked, MaskedModel


def build(spec: ModelSpec, seed: int) -> tuple[Skeleton, Flat]:
    """The backbone with its decoders, random parameters."""
    p, size = spec.config.patch_size, spec.preprocess.size
    backbone = spec.build(rngs=nnx.Rngs(seed)).backbone
    grid = (size[0] // p, size[1] // p)
    return split(MaskedModel(backbone, spec.config.width, grid, p * p * spec.config.in_channels, nnx.Rngs(seed)))


def train(spec: ModelSpec, *, epochs: int, batch_size: int, lr: float, weight_decay: float, seed: int) -> Flat:
    """Pre-trains on the training digits; returns the backbone's parameters under "backbone."."""
    skeleton, flat = build(spec, seed)
    trainable = {path: flat.pop(path) for path in skeleton.paths("param")}
    batches = pipeline.make_train_iter(
        load_source(DataConfig()).split("train"),
        DataConfig(),
        seed=seed,
        batch_size=batch_size,
        image_size=spec.preprocess.size,
        preset="crop",
    )
    steps = epochs * batches.steps_per_epoch
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.95, weight_decay=weight_decay, mask={p: p.endswith("kernel") for p in trainable}),
    )
    normalize = partial(device_aug.normalize, mean=spec.preprocess.mean, std=spec.preprocess.std)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(trainable: Flat, opt, images, key):
        def loss(trainable: Flat):
            return Masked().loss(bind(skeleton, flat | trainable), normalize(images), key)

        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        updates, opt = tx.update(grads, opt, trainable)
        return optax.apply_updates(trainable, updates), opt, value

    opt, key = tx.init(trainable), jax.random.key(seed)
    for i in (bar := tqdm(range(steps), unit="step")):
        images = jnp.asarray(next(batches)["image"])
        trainable, opt, value = step(trainable, opt, images, jax.random.fold_in(key, i))
        if i % 20 == 0:
            bar.set_postfix(loss=f"{float(value):.4f}")
    batches.close()
    return {path: array for path, array in (flat | trainable).items() if path.startswith("backbone.")}


def main(argv: list[str] | None = None) -> int:
    """Pre-trains, saves and exports."""
    parser = argparse.ArgumentParser(prog="python -m jaxdino.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder for config.json and model.safetensors")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    flat = train(
        DIGITS,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        weight_decay=args.weight_decay,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(f"{folder}/model", Card(DIGITS), {path: np.asarray(array) for path, array in flat.items()})
        for line in export(f"{folder}/model", args.out, layout="hf", overwrite=True):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
