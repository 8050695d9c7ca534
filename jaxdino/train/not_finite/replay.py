"""Take a saved step again, with every layer watched."""

from collections.abc import Callable
from pathlib import Path

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.train.begin import shapes
from jaxdino.train.not_finite import folder
from jaxdino.train.not_finite.check import described
from jaxdino.train.not_finite.finding import Finding, diagnose
from jaxdino.train.recorded import CONFIG, as_config, read_config
from jaxdino.train.setup import prepare


def replay(place: Path, root: str | None, say: Callable[[str], None]) -> tuple[Finding | None, list[str]]:
    """Return the first value of the step that is not finite, or None, and the lines that describe it.

    Args:
      place: the folder nan_stepN. root: the data, if it was moved.

    Raises:
      UserError: if the folder, the data or the weights do not fit.
    """
    about, leaves, batch = folder.load(place)
    config = as_config(read_config(place / CONFIG))
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.model.remat = -1, 1, 1, "none"
    if root is not None:
        config.data.root = root
    setup = prepare(config, say)
    part = next((part for part in setup.parts if part.stage.name == about.stage), None)
    if part is None:
        raise UserError(f"{place}: its config has no stage {about.stage!r}")
    like = {name: one for name, one in shapes(setup, part).items() if name != "best"}
    state = sharding.put(folder.as_tree(leaves, like), sharding.shardings(like, setup.mesh, setup.rules))
    placed = sharding.put_batch(batch, setup.mesh)
    made = setup.task.train_step(part, state)
    found = diagnose(made, **state, batch=placed, slices=part.stage.accumulate)
    return found, described(about, found)
