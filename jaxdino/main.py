"""Trains by a config: `python -m jaxdino.main --config=configs/gradual.py:dinov3_vits16 --workdir=DIR`.

Settings change by flags, `--config.data.root=DIR`, `--config.stages[0].epochs=3`. The same command again goes on
where the run stopped.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from jaxdino.core.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/gradual.py", "The strategy; a model's name may follow a colon.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; by default a new one under runs/.")


def main(argv: list[str]) -> None:
    """Runs the config of the flags; what the user can mend ends in one line and status 2."""
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is no flag: settings are given as --config.name=value")
        from jaxdino.train.loop import run  # jax and all: --help does not wait for them

        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells a page about each checkpoint
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
        run(CONFIG.value, WORKDIR.value, name=name)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
