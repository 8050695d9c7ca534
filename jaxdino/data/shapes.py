"""Scenes of coloured shapes, generated: pairs such as "red circle" and its mask, without a download."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from jaxdino.data.pairs import Scene

SIZE = 64  # pixels a side
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
SHAPES = (2, 4)  # in a scene, at least and at most
RADIUS = (8.0, 14.0)  # of the circle around a shape, pixels
CLOSEST = 0.85  # of two centres, as a share of both radii: shapes overlap a little at most
FINE = 4  # drawn so many times larger, then averaged


@functools.lru_cache(maxsize=4)
def scenes(seed: int) -> dict[str, list[Scene]]:
    """{split: scenes}: `SCENES` of them, uint8 (64, 64, 3), with 2 to 4 different shapes each, later ones in front.

    Each split deals the prompts out evenly, so that all occur in each. The seed decides all.
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
    """Draws the shapes in the order given onto a grey, rough ground."""
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
    """float64 (64, 64, 3): grey of slowly changing brightness, hardly tinted, with noise."""
    coarse = rng.uniform(60, 200) + rng.normal(0, 25, (5, 5, 1)) + rng.normal(0, 6, (5, 5, 3))
    slow = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(slow, np.float64) + rng.normal(0, 8, (SIZE, SIZE, 1))


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """(x, y, radius) of each shape, whole within the image; drawn again until they hardly overlap."""
    while True:
        radii = rng.uniform(*RADIUS, count)
        centres = np.stack([rng.uniform(radii, SIZE - radii) for _ in range(2)], axis=1)
        apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + 1e6 * np.eye(count)
        if (apart >= CLOSEST * (radii[:, None] + radii)).all():
            return [(float(x), float(y), float(r)) for (x, y), r in zip(centres, radii, strict=True)]


def _cover(kind: str, x: float, y: float, radius: float, rng: np.random.Generator) -> np.ndarray:
    """float64 (64, 64), the share of each pixel that the shape covers; squares and triangles are turned at random."""
    fine = Image.new("L", (SIZE * FINE, SIZE * FINE))
    draw, (x, y, radius) = ImageDraw.Draw(fine), (x * FINE, y * FINE, radius * FINE)
    if kind == "circle":
        radius *= 0.9  # so that kinds are about as large
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    else:
        corners, turn = {"square": 4, "triangle": 3}[kind], rng.uniform(0, math.tau)
        angles = [turn + math.tau * corner / corners for corner in range(corners)]
        draw.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill=255)
    return np.asarray(fine.reduce(FINE), np.float64) / 255
