"""The source "shapes": generated scenes of coloured shapes, such as "red circle" with its mask, without a download."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from jaxdino.data.boxes import BoxLists
from jaxdino.data.config import DataConfig
from jaxdino.data.prompted import Scene, assemble
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.sources.boxed import BOXES, around

SIZE = 64  # side of an image, pixels
SCENES = {"train": 400, "val": 80, "test": 80}
COLOURS = {
    "red": (214, 45, 40),
    "green": (44, 160, 60),
    "blue": (40, 80, 210),
    "yellow": (235, 205, 50),
    "purple": (150, 60, 190),
}
KINDS = ("circle", "square", "triangle")
NAMES = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)
SHAPES = (2, 4)  # smallest and largest number in a scene
RADIUS = (8.0, 14.0)  # radius of the circle around a shape, pixels
CLOSEST = 0.85  # smallest distance of two centres, as a share of both radii: shapes overlap only slightly
FINE = 4  # supersampling factor: shapes are drawn larger, then averaged


def shapes(cfg: DataConfig, prompts: PromptConfig) -> Source:
    """List scenes of coloured shapes (see `scenes`): 400 train, 80 val, 80 test; seeded by `split_seed`."""
    return assemble("shapes", scenes(cfg.split_seed), NAMES, prompts)


def boxes(cfg: DataConfig) -> Source:
    """List the same scenes with a box around each shape."""
    splits = {}
    for split, listed in scenes(cfg.split_seed).items():
        found = BoxLists.of([around(scene.masks, NAMES) for scene in listed])
        splits[split] = Split(split, [scene.image for scene in listed], {BOXES: found}, NAMES)
    return Source("shapes", NAMES, splits)


@functools.lru_cache(maxsize=4)
def scenes(seed: int) -> dict[str, list[Scene]]:
    """Return {split: `SCENES` scenes}, uint8 (64, 64, 3), with 2 to 4 different shapes each, later ones in front.

    Each split distributes the prompts evenly, so that all occur in each. The result depends only on the seed.
    """
    draws = {name: np.random.default_rng((seed, place)) for place, name in enumerate(SCENES)}
    return {name: _split(count, draws[name]) for name, count in SCENES.items()}


def _split(count: int, rng: np.random.Generator) -> list[Scene]:
    found, deck = [], []
    for _ in range(count):
        wanted = int(rng.integers(SHAPES[0], SHAPES[1] + 1))
        if len(deck) < wanted:
            deck = [name for name in rng.permutation(NAMES).tolist() if name not in deck] + deck
        found.append(_scene([deck.pop() for _ in range(wanted)], rng))
    return found


def _scene(names: list[str], rng: np.random.Generator) -> Scene:
    """Draw the shapes in the given order on a grey, noisy background."""
    image, masks = _ground(rng), {}
    for name, (x, y, radius) in zip(names, _places(len(names), rng), strict=True):
        colour, kind = name.split()
        cover = _cover(kind, x, y, radius, rng)[..., None]
        shade = np.array(COLOURS[colour]) * rng.uniform(0.8, 1.1) + rng.normal(0, 6, (SIZE, SIZE, 3))
        image = image * (1 - cover) + shade * cover
        inside = cover[..., 0] >= 0.5
        masks = {other: mask * ~inside for other, mask in masks.items()} | {name: inside.astype(np.uint8)}
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), masks)


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Return float64 (64, 64, 3): a grey, slightly tinted background of slowly varying brightness, with noise."""
    coarse = rng.uniform(60, 200) + rng.normal(0, 25, (5, 5, 1)) + rng.normal(0, 6, (5, 5, 3))
    slow = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(slow, np.float64) + rng.normal(0, 8, (SIZE, SIZE, 1))


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Draw (x, y, radius) of each shape, entirely inside the image; redraw until the shapes overlap only slightly."""
    while True:
        radii = rng.uniform(*RADIUS, count)
        centres = np.stack([rng.uniform(radii, SIZE - radii) for _ in range(2)], axis=1)
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + 1e6 * np.eye(count)
        if (apart >= CLOSEST * (radii[:, None] + radii)).all():
            return [(float(x), float(y), float(r)) for (x, y), r in zip(centres, radii, strict=True)]


def _cover(kind: str, x: float, y: float, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return float64 (64, 64), the share of each pixel covered by the shape; squares and triangles are rotated."""
    fine = Image.new("L", (SIZE * FINE, SIZE * FINE))
    draw, (x, y, radius) = ImageDraw.Draw(fine), (x * FINE, y * FINE, radius * FINE)
    if kind == "circle":
        radius *= 0.9  # makes the kinds about equally large
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    else:
        corners, turn = {"square": 4, "triangle": 3}[kind], rng.uniform(0, math.tau)
        angles = [turn + math.tau * corner / corners for corner in range(corners)]
        draw.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill=255)
    return np.asarray(fine.reduce(FINE), np.float64) / 255
