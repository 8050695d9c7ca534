"""Compile the training step of the next stage in a thread, while a stage trains."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax

from jaxdino.core.image_sizes import Size
from jaxdino.train import precision, step
from jaxdino.train.begin import shapes
from jaxdino.train.not_finite.check import Guard
from jaxdino.train.state import State
from jaxdino.train.task import Part

if TYPE_CHECKING:
    from jaxdino.train.session import Session

Shapes = Mapping[str, jax.ShapeDtypeStruct]


class CompileAhead:
    """The step of the stage after the current one, compiled from shapes.

    It is the program that the stage would compile itself: the results are the same. If the shapes prove to be others,
    or a step cannot be made from shapes (text-prompted segmentation holds the prompts' features as constants), the
    stage compiles its own. A run of several processes does not compile ahead: they compile together. Nor does a run on
    a GPU, where XLA would try kernels beside the training, in its memory.
    """

    def __init__(self, session: "Session"):
        self._session = session
        self._pool = ThreadPoolExecutor(1, "compile ahead")
        self._started: dict[int, Future] = {}

    def jitted(self, part: Part, current: State) -> Any:
        """Return the step of a stage, which compiles at its first call."""
        setup = self._session.setup
        made = Guard(self._session, part, current).made()
        return step.compile_train_step(made, current, setup.mesh, setup.rules, remat=precision.remat(setup.config))

    def begin(self, part: Part, batch: Mapping[str, jax.Array]) -> None:
        """Start to compile the step of the stage after `part`, once.

        Args:
          batch: a batch of `part`.
        """
        for after in self._session.setup.parts[part.index + 1 : part.index + 2]:
            if after.index not in self._started and jax.process_count() == 1 and jax.default_backend() != "gpu":
                expected = batch_shapes(batch, part, after)
                self._started[after.index] = self._pool.submit(self._compile, after, expected)

    def _compile(self, part: Part, batch: Shapes) -> tuple[Any, State]:
        like = shapes(self._session.setup, part)
        return self.jitted(part, like).lower(like["moving"], like["frozen"], batch).compile(), like | {"batch": batch}

    def step(self, part: Part, current: State) -> Callable[[State, Any, Any], tuple[State, dict[str, Any]]]:
        """Return the train step of a stage; wait for one that is being compiled.

        Without one it compiles for its first batch; batches of other shapes have programs of their own.
        """
        jitted, started = self.jitted(part, current), self._started.pop(part.index, None)
        compiled = expected = None
        if started is not None and started.exception() is None:
            made, like = started.result()
            if all(_described(current[name]) == _described(like[name]) for name in ("moving", "frozen")):
                compiled, expected = made, _described(like["batch"])

        def train_step(moving: State, frozen: Any, batch: Any) -> tuple[State, dict[str, Any]]:
            nonlocal compiled, expected
            given = _described(batch)
            if compiled is None:
                compiled, expected = step.compiled(jitted, moving, frozen, batch), given
            return (compiled if given == expected else jitted)(moving, frozen, batch)

        return train_step

    def close(self) -> None:
        """Wait for a compilation that has begun."""
        self._pool.shutdown(cancel_futures=True)


def batch_shapes(batch: Mapping[str, jax.Array], part: Part, after: Part) -> Shapes:
    """Return the expected shapes of the first batch of a stage, given a batch of the stage before.

    Axes of the length of the batch, and of the sides of its images, become those of the next stage.
    """
    images = batch.get("image")
    sides: Size | None = None if images is None or images.ndim != 4 else (images.shape[1], images.shape[2])

    def shape(x: jax.Array) -> jax.ShapeDtypeStruct:
        rest = x.shape[1:]
        if sides is not None and rest[:2] == sides:
            rest = (*after.sizes.bases(0)[0], *rest[2:])
        count = x.shape[0] * (after.stage.batch_size or 0) // (part.stage.batch_size or 1)
        return jax.ShapeDtypeStruct((count, *rest), x.dtype)

    return {name: shape(x) for name, x in batch.items()}


def _described(tree: Any) -> tuple[Any, list[tuple]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
