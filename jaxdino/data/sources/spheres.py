"""The source "spheres": generated scenes of spheres on a floor, with the exact depth of each pixel."""

import functools

import numpy as np

from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split

SIZE = 64  # side of an image, pixels
SCENES = {"train": 320, "val": 64, "test": 64}
SPHERES = (1, 4)  # smallest and largest number in a scene
RADIUS = 0.6  # metres: of one size, so that a smaller sphere is farther away
NEAREST = 1.4  # metres: the nearest centre of a sphere
WALL = (3.0, 8.0)  # metres: the wall behind them
CAMERA = (0.6, 1.6)  # metres above the floor
HORIZON = 0.35  # shift of the horizon, in halves of the image's side
LIGHT = np.array([0.4, 0.8, -0.45]) / np.linalg.norm([0.4, 0.8, -0.45])  # direction to it: x right, y up, z away


def spheres(cfg: DataConfig) -> Source:
    """List generated scenes, uint8 (64, 64, 3), with their depth, float32 (64, 64): 320 train, 64 val, 64 test.

    The depth of a pixel is the distance along the camera's axis, in metres. The result depends on `split_seed` alone.
    """
    return _scenes(cfg.split_seed)


@functools.lru_cache(maxsize=4)
def _scenes(seed: int) -> Source:
    splits = {}
    for place, (name, count) in enumerate(SCENES.items()):
        rng = np.random.default_rng((seed, place))
        images, depths = zip(*(scene(rng) for _ in range(count)), strict=True)
        splits[name] = Split(name, list(images), {"depth": list(depths)})
    return Source("spheres", (), splits)


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Render one scene: the image uint8 (64, 64, 3) and its depth float32 (64, 64) in metres."""
    side = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y = np.meshgrid(side, -side + rng.uniform(-HORIZON, HORIZON))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1)  # at depth 1: the focal length is half a side
    wall, camera = rng.uniform(*WALL), rng.uniform(*CAMERA)
    depth, colour = np.full(x.shape, wall), np.broadcast_to(rng.uniform(90, 200, 3), rays.shape).copy()
    normal = np.broadcast_to(np.array([0.0, 0.0, -1.0]), rays.shape).copy()
    floor = -camera / np.minimum(y, -1e-6)
    under = floor < depth
    depth[under], normal[under], colour[under] = floor[under], (0.0, 1.0, 0.0), rng.uniform(60, 200, 3)
    for _ in range(rng.integers(SPHERES[0], SPHERES[1] + 1)):
        far = rng.uniform(NEAREST, wall - RADIUS)
        centre = np.array([rng.uniform(-0.8, 0.8) * far, RADIUS - camera, far])
        own, paint = _hit(rays, centre), rng.uniform(40, 255, 3)
        front = own < depth
        depth[front], colour[front] = own[front], paint
        normal[front] = (rays[front] * own[front][:, None] - centre) / RADIUS
    shade = 0.35 + 0.65 * np.maximum(normal @ LIGHT, 0)
    image = colour * shade[..., None] + rng.normal(0, 4, rays.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), depth.astype(np.float32)


def _hit(rays: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return the depth at which rays meet a sphere, infinite where they pass it."""
    a, b, c = (rays**2).sum(-1), rays @ centre, centre @ centre - RADIUS**2
    inside = b**2 - a * c
    return np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, np.inf)
