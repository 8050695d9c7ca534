"""A model as one function from pixels to named outputs: what every artefact holds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, bind
from jaxdino.core.resize import Resize
from jaxdino.core.rules import did_you_mean
from jaxdino.data.photometric import normalize
from jaxdino.models.boxes import corners, decode, grid
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.output import Output
from jaxdino.serving.resizing import placed, resized

INPUTS = ("uint8", "float32")
"""Images of an artefact: pixels 0 to 255, normalised inside; or floats that the caller has normalised."""
FEATURES = ("cls", "patches", "pooled")
TASKS = {
    "image": ("classify", ("logits", "probabilities")),
    "patch": ("semantic", ("logits",)),
    "box": ("detect", ("boxes", "scores")),
    "depth": ("depth", ("depth",)),
    "mask": ("instances", ("scores", "masks")),
}
"""What gets a class (`HeadConfig.of`) -> the task, and the outputs of the head."""
PROMPTED = {"clipdinosam": ("prompts", ("patches",))}
"""Families whose masks are another program, of a text and the outputs of this one -> the task, and those outputs."""
CANNOT = {
    "dino_head": "a projection head takes features and has no use without its backbone",
}
"""Families that cannot be exported -> why."""
FREE = {"height": 64, "width": 48}
"""Axes of any length -> their length in random images."""
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "uint8": lambda rng, shape: rng.integers(0, 256, shape, np.uint8),
    "float32": lambda rng, shape: rng.standard_normal(shape, np.float32),
}
"""dtype -> (generator, shape) -> a random input."""


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a program.

    Attributes:
      name, dtype: of the array. sides: its axes after the batch: lengths, or names out of `FREE`.
      draw: (generator, shape) -> a random one.
    """

    name: str
    dtype: str
    sides: tuple[int | str, ...]
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

    def random(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return a random array, `count` long."""
        return self.draw(rng, (count, *(FREE[one] if isinstance(one, str) else one for one in self.sides)))

    def about(self) -> dict[str, Any]:
        """Return what a user must know of it."""
        return {"name": self.name, "dtype": self.dtype, "shape": ["batch", *self.sides]}


@dataclasses.dataclass(frozen=True)
class Program:
    """A model as a function.

    Attributes:
      run: (flat parameters, an array for each input) -> {name: array}. flat: the parameters.
      inputs: what it takes; images (B, H, W, C) for the program of a model. name: of its files.
      about: what a user of an artefact must know, for its JSON file.
    """

    run: Callable[..., dict[str, jax.Array]]
    flat: Mapping[str, jax.Array]
    inputs: tuple[Input, ...]
    about: dict[str, Any]
    name: str = "model"

    def shapes(self, batch: str = "batch") -> list[jax.ShapeDtypeStruct]:
        """Return the inputs with symbolic lengths: the batch, which they share, and the axes that are free."""
        scope = jax.export.SymbolicScope()
        return [
            jax.ShapeDtypeStruct(
                jax.export.symbolic_shape(", ".join(map(str, (batch, *one.sides))), scope=scope), np.dtype(one.dtype)
            )
            for one in self.inputs
        ]


def program(model: Any, *, pixels: str = "uint8", resize: bool = False, outputs: Sequence[str] = ()) -> Program:
    """Return a loaded model as a program.

    Args:
      model: a `jaxdino.Model`.
      pixels: one of `INPUTS`. resize: take images of any size, one size a call, and resize them as in evaluation.
      outputs: names out of those that the model has; () for the usual ones of its task.

    Raises:
      UserError: for a model that cannot be exported, an unknown output, and a resize of normalised images.
    """
    card, how = model.card, model.card.spec.preprocess
    if why := CANNOT.get(card.spec.family):
        raise UserError(f"{model.name} cannot be exported: {why}")
    if resize and pixels != "uint8":
        raise UserError("images that are normalised already cannot be resized inside: leave out --resize or --input")
    task, usual = _task(card)
    all_outputs = tuple(dict.fromkeys((*usual, *FEATURES)))
    chosen = tuple(outputs) or usual
    for name in chosen:
        if name not in all_outputs:
            raise UserError(f"output {name!r} is not one of this model; {did_you_mean(name, all_outputs)}")
    skeleton = model.skeleton

    def run(flat: Flat, images: jax.Array) -> dict[str, jax.Array]:
        full = images.shape[1], images.shape[2]
        if resize:
            images = resized(images, how.size, how.resize)
        if pixels == "uint8":
            images = normalize(images, how.mean, how.std)
        found = _outputs(bind(skeleton, flat)(images), card, task, how.size, chosen)
        if resize and "boxes" in found:
            found["boxes"] = _of_the_image(found["boxes"], full, how.size, how.resize)
        return found

    sides = (*(FREE if resize else how.size), len(how.mean))
    images = Input("images", pixels, sides, DRAWS[pixels])
    about = _about(card, task, images, resize, chosen) | {"digest": model.digest}
    return Program(run, model.flat, (images,), about)


def _task(card: Any) -> tuple[str, tuple[str, ...]]:
    """Return what a model does, and the names of its usual outputs."""
    if card.spec.family in PROMPTED:
        return PROMPTED[card.spec.family]
    if not card.num_classes:
        return "features", FEATURES
    if card.head.choice is not None and card.head.choice.several:
        return "multilabel", TASKS["image"][1]
    return TASKS[card.head.of]


def _outputs(out: Output, card: Any, task: str, size: tuple[int, int], chosen: Sequence[str]) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = {name: getattr(out, name) for name in FEATURES} | out.predictions
    if task == "detect" and not card.head.strides:
        edge = jnp.array([size[1], size[0], size[1], size[0]], jnp.float32)[None, None]
        found["boxes"] = jnp.minimum(jnp.maximum(corners(out.predictions["boxes"]), 0), 1) * edge
        found["scores"] = jax.nn.sigmoid(found["logits"])
    elif task == "detect":
        distances, centre = out.predictions["distances"], jax.nn.sigmoid(out.predictions["centerness"])
        edge = jnp.array([size[1], size[0], size[1], size[0]], jnp.float32)[None, None]
        boxes = decode(distances, grid(size, card.head.strides))
        found["boxes"] = jnp.minimum(jnp.maximum(boxes, 0), edge)
        found["scores"] = jnp.sqrt(jax.nn.sigmoid(found["logits"]) * centre[..., None])
    elif task == "instances":
        found["scores"] = _softmax(found["logits"])[..., :-1]  # the last is that there is no region
    elif "probabilities" in chosen:
        found["probabilities"] = odds(found["logits"], card.calibration, task == "multilabel")
    return {name: found[name].astype(jnp.float32) for name in chosen}


def _of_the_image(boxes: jax.Array, full: tuple[Any, Any], size: tuple[int, int], how: Resize) -> jax.Array:
    """Return boxes of a resized image in pixels of the image itself, within it."""
    scale, corner = (jnp.tile(one[::-1], 2)[None, None] for one in placed(*full, size, how))
    edge = jnp.tile(jnp.stack([jnp.asarray(one) for one in full[::-1]]), 2).astype(jnp.float32)[None, None]
    return jnp.clip((boxes + corner) / scale, 0, edge)


def odds(logits: jax.Array, calibration: Calibration | None, several: bool) -> jax.Array:
    """Return probabilities (B, classes) of scores, float32; as `Calibration.odds`, which computes in float64."""
    if calibration is not None:
        logits = logits * jnp.asarray(calibration.scale, jnp.float32)[None]
        if calibration.shift:
            logits = logits + jnp.asarray(calibration.shift, jnp.float32)[None]
    found = jax.nn.sigmoid(logits) if several else _softmax(logits)
    if calibration is None or calibration.method != "isotonic":
        return found
    columns = [
        _on_line(found[:, i], *line) for i, line in enumerate(zip(calibration.inputs, calibration.outputs, strict=True))
    ]
    found = jnp.stack(columns, axis=-1)
    if several:
        return found
    total = found.sum(axis=-1, keepdims=True)
    return jnp.where(total > 0, found / jnp.where(total > 0, total, 1.0), 1 / len(columns))


def _softmax(logits: jax.Array) -> jax.Array:
    exponents = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def _on_line(x: jax.Array, inputs: Sequence[float], outputs: Sequence[float]) -> jax.Array:
    """Read values (B,) off the line through points, level beyond its ends: a sum over its pieces, with no search."""
    xs, ys = np.asarray(inputs, np.float32), np.asarray(outputs, np.float32)
    width, height = np.diff(xs)[None], np.diff(ys)[None]
    share = jnp.clip((x[:, None] - xs[None, :-1]) / np.where(width > 0, width, 1), 0, 1)
    share = jnp.where(jnp.asarray(width > 0), share, (x[:, None] >= xs[None, 1:]).astype(jnp.float32))
    return ys[0] + (share * height).sum(axis=-1)


def _about(card: Any, task: str, images: Input, resize: bool, chosen: Sequence[str]) -> dict[str, Any]:
    """Return what a user of an artefact must know."""
    how = card.spec.preprocess
    about = {
        "jaxdino": jaxdino.__version__,
        "model": card.spec.name,
        "task": task,
        "input": images.about(),
        "outputs": list(chosen),
        "preprocess": dataclasses.asdict(how) | {"inside": [*(["resize"] if resize else []), *_inside(images.dtype)]},
        "classes": list(card.class_names) or [str(i) for i in range(card.num_classes if task != "depth" else 0)],
    }
    if getattr(card.head, "thresholds", ()):
        about["thresholds"] = list(card.head.thresholds)
        about["thresholds_are_for"] = "probabilities before calibration: sigmoid(logits)"
    if card.calibration is not None:
        about["calibration"] = dataclasses.asdict(card.calibration)
    return about


def _inside(pixels: str) -> list[str]:
    return ["normalise"] if pixels == "uint8" else []
