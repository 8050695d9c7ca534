"""Writers of metrics beside metrics.jsonl, chosen by name: TensorBoard, Weights & Biases, MLflow."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.settings.writers import chosen
from jaxdino.train.writers.background import Background, Line
from jaxdino.train.writers.ml_flow import MLflow
from jaxdino.train.writers.tensorboard import TensorBoard
from jaxdino.train.writers.weights_and_biases import WeightsAndBiases
from jaxdino.train.writers.writer import Target, Writer, numbers

WRITERS: dict[str, Callable[[Target], Writer]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
"""Name in config.writers -> its class; the packages are in `jaxdino.settings.writers.PACKAGES`."""
KEPT = "writers.json"
"""File of the run's folder: {writer: what it keeps to go on when the run is resumed, such as the id of its run}."""
Record = Mapping[str, Any]


class Writers:
    """All writers of a run; each gets every line once, also over kills and resumptions.

    Args:
      folder: the run's folder. config: the run's settings, plain; {} has no writers. say: prints a line.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], say: Callable[[str], None] = print):
        self._folder, self._config, self._say = folder, config, say
        self._all: list[Background] = []
        self._finished = False

    def open(self, records: Sequence[Record]) -> None:
        """Open the writers, and give them the lines that they do not have.

        Args:
          records: the lines up to the checkpoint that the run resumes from.

        Raises:
          UserError: for a writer that cannot be opened for a new run; when a run is resumed, it is left out.
        """
        known = self._known()
        for name in chosen(self._config.get("writers")):
            tracking = self._config.get("tracking") or {}
            target = Target(self._folder, self._config, tracking, known.get(name, {}), self._say)
            try:
                writer = WRITERS[name](target)
            except Exception as err:  # whatever a library raises
                self._not_opened(name, err, resumed=bool(records))
                continue
            if writer.kept:
                known[name] = dict(writer.kept)
                write_json(self._folder / KEPT, known)
            self._all.append(Background(name, writer, self._say))
            self._all[-1].catch_up([_line(record) for record in records])

    def _known(self) -> dict[str, dict[str, Any]]:
        """Return what the writers kept at earlier starts."""
        file = self._folder / KEPT
        if not file.exists():
            return {}
        try:
            found = read_json(file, dict)
        except JsonError as err:
            self._say(f"WARNING: {file} is damaged ({err.reason}): wandb and mlflow begin new runs")
            return {}
        return {name: one for name, one in found.items() if name in WRITERS and isinstance(one, dict)}

    def _not_opened(self, name: str, err: Exception, resumed: bool) -> None:
        why = str(err) if isinstance(err, UserError) else f"{type(err).__name__}: {' '.join(str(err).split())[:500]}"
        if not resumed:
            self.close()
            raise UserError(
                f"the writer {name!r} cannot be opened: {why}. To train without it, change config.writers"
            ) from err
        self._say(f"WARNING: the writer {name!r} cannot be opened ({why}); the training goes on without it")

    def write(self, record: Record) -> None:
        """Write a line of metrics.jsonl to all writers that do not have its step."""
        for writer in self._all:
            writer.write(*_line(record))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the results of a finished run, and its page if config.tracking.artefacts is set."""
        self._finished = True
        page = self._folder / "report.html"
        wanted = (self._config.get("tracking") or {}).get("artefacts") and page.exists()
        for writer in self._all:
            writer.finish(numbers(summary), [page] if wanted else [])

    def close(self) -> None:
        """Wait for all writers and close them."""
        for writer in self._all:
            writer.close(self._finished)
        self._all.clear()


def _line(record: Record) -> Line:
    """Return (metrics, step, time) of a line of metrics.jsonl."""
    values = numbers({name: one for name, one in record.items() if name not in ("step", "time")})
    return values, record["step"], record["time"]
