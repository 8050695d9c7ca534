"""A decoder drawn at random and frozen learns to mask what the prompt names, by its adapters and the projections."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdino.core.params import bind, split
from jaxdino.models import lora
from jaxdino.models.lora import LoRA
from jaxdino.objectives.masks import bce_loss, dice_loss, iou_loss, upsampled
from tests.models.tiny_clipdinosam import CONFIG, SAM, spec_of

COLOURS = np.array([[1.5, -1, -1], [-1, 1.5, -1], [-1, -1, 1.5]])
IDS = np.array([[3, 4, 49], [9, 4, 49], [17, 4, 49]])
SIDE, STEPS, BATCH = 16, 200, 16
SPEC = spec_of(
    image=dataclasses.replace(CONFIG.image, depth=1),
    sam=dataclasses.replace(SAM, width=32, decoder_mlp_dim=64),
    decoder_lora=LoRA(rank=8, targets=("@linear",)),
)


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two squares of two colours on noise: images, the mask of one of them, and its colour."""
    rng = np.random.default_rng(seed)
    images, masks = rng.normal(0, 0.3, (count, SIDE, SIDE, 3)), np.zeros((count, SIDE, SIDE), np.uint8)
    colours = np.stack([rng.permutation(len(COLOURS))[:2] for _ in range(count)])
    for image, mask, pair in zip(images, masks, colours, strict=True):
        for n, half in enumerate(rng.permutation(2)):
            size, (top, left) = rng.integers(4, 8), rng.integers(0, (8, 1))
            left += SIDE // 2 * half
            place = np.s_[top : top + size, left : left + size]
            image[place] += COLOURS[pair[n]]
            mask[place] = n == 0
    return images.astype(np.float32), masks, colours[:, 0]


def test_adapters_steer_a_random_decoder():
    skeleton = SPEC.skeleton()
    flat = split(SPEC.build())[1]
    chosen = {*lora.leaves(flat), *(path for path in flat if path.split(".")[1].startswith("token_"))}
    start = {path: flat[path] for path in chosen}
    frozen = {path: array for path, array in flat.items() if path not in chosen}
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))

    def masks(trained, images, prompt):
        net = bind(skeleton, frozen | trained).backbone
        logits, iou = net.masks(net.tokens(images), net.encode_text(IDS)[prompt][:, None])
        return upsampled(logits[:, 0, 0], (SIDE, SIDE)), iou[:, 0, 0]

    def loss(trained, images, truth, prompt):
        (logits, iou), ones = masks(trained, images, prompt), jnp.ones(len(images))
        return dice_loss(logits, truth, ones) + bce_loss(logits, truth, ones) + iou_loss(iou, logits, truth, ones)

    @jax.jit
    def train(trained, data):
        def step(carry, rows):
            trained, state = carry
            value, grads = jax.value_and_grad(loss)(trained, *(array[rows] for array in data))
            updates, state = optimizer.update(grads, state, trained)
            return (optax.apply_updates(trained, updates), state), value

        rows = jax.random.randint(jax.random.key(0), (STEPS, BATCH), 0, len(data[0]))
        (trained, _), losses = jax.lax.scan(step, (trained, optimizer.init(trained)), rows)
        return trained, losses

    def dice(trained):
        images, truth, prompt = scenes(64, seed=1)
        found = np.asarray(jax.jit(masks)(trained, images, prompt)[0]) > 0
        both = (found & (truth == 1)).sum(axis=(1, 2))
        return float(np.mean(2 * both / np.maximum(found.sum(axis=(1, 2)) + truth.sum(axis=(1, 2)), 1)))

    trained, losses = train(start, scenes(256, seed=0))
    print(f"dice {dice(start):.3f} -> {dice(trained):.3f}, losses {np.asarray(losses)[::25]}")
    assert dice(start) < 0.3 and dice(trained) > 0.7
