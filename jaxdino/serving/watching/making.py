"""Make the reference of a model: a split of its run, or a folder of images, through the same code as served images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.inputs import find_inputs
from jaxdino.evaluation.finished_run import open_run
from jaxdino.serving.server.catalogue import Served
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.server.work import PREDICT, Asked, Seen
from jaxdino.serving.watching import reference
from jaxdino.serving.watching.drift import sample_of

MOST = 5000  # images of a reference, spread over the split


def make(served: Served, of: str, settings: ServeSettings, window: int, say: Callable[[str], None]) -> Path:
    """Write the reference of a served model into its folder, replacing one that is there; return its folder.

    Args:
      of: a split of the run ("val"), or a folder of images that the model was not trained on.
      window: images that are compared at a time.

    Raises:
      UserError: for a model without features of whole images, a split or folder that does not exist, too few images.
    """
    endpoint = PREDICT if PREDICT in served.works else "embed"
    if endpoint not in served.works:
        raise UserError(f"{served.place.name} is not watched for drift: it gives no features of whole images")
    if not Path(served.place.source).is_dir():
        raise UserError(f"{served.place.source} is not a folder, so a reference cannot be kept with the model")
    records = _records(served, of, say)
    seen = answers(served, endpoint, records, settings)
    if len(seen) < len(records):
        say(f"{len(records) - len(seen)} of {len(records)} images could not be read")
    if len(seen) < reference.LEAST:
        raise UserError(f"{of} has {len(seen)} readable images: a reference needs at least {reference.LEAST}")
    found = reference.made(sample_of(seen), served.model.digest, served.model.card.num_classes, window)
    if found.window < window:
        say(f"the window is {found.window} images, half of the reference, instead of {window}")
    place = reference.save(found, Path(served.place.source))
    limits = ", ".join(f"{name} {value:.4g}" for name, value in found.thresholds.items())
    say(f"{place}: {len(seen)} images, windows of {found.window}, thresholds {limits}")
    return place


def answers(served: Served, endpoint: str, records: Sequence[Any], settings: ServeSettings) -> list[Seen]:
    """Return what the watch keeps of each image that can be read, as when it is served."""
    work, found, size = served.work(endpoint), [], settings.max_batch

    def read(record: Any) -> Any:
        try:
            return work.read(record, Asked())
        except BadImage:
            return None

    with ThreadPoolExecutor(settings.decoders) as pool:
        for first in bar(range(0, len(records), size), "reference"):
            chosen = [records[row] for row in range(first, min(first + size, len(records)))]
            items = [item for item in pool.map(read, chosen) if item is not None]
            found += [work.answer(endpoint, result, Asked())[1] for result in (work.compute(items) if items else ())]
    return found


def _records(served: Served, of: str, say: Callable[[str], None]) -> Sequence[Any]:
    if Path(of).is_dir():
        inputs, notes = find_inputs([of])
        for line in notes:
            say(line)
        rows: Sequence[Any] = [one.path for one in inputs]
    else:
        rows = open_run(served.place.source, say).source.split(of).records
    step = -(-len(rows) // MOST)
    return [rows[row] for row in range(0, len(rows), step)]
