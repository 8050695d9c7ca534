"""Trains by a config: `python -m jaxdino.main --config=configs/gradual.py:dinov3_vits16 --workdir=DIR`.

Settings change by flags, `--config.stages[0].epochs=3`. The same command again goes on where the run stopped.
"""

import sys
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import keep_freed
from jaxdino.core.rules import did_you_mean

CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/gradual.py", "The strategy; a model's name may follow a colon.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; by default a new one under runs/.")


def main(argv: list[str]) -> None:
    """Runs the config of the flags; what the user can mend ends in one line and status 2."""
    from jaxdino.train.loop import run  # jax and all: --help does not wait for them

    keep_freed()
    try:
        run(CONFIG.value, WORKDIR.value, name=config_file().stem)
    except UserError as err:
        refuse(err)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; what is misspelt in them or in the config's path ends in one line and status 2."""
    try:
        rest = app.parse_flags_with_usage(argv)
        if not flags.FLAGS["verbosity"].present:
            flags.FLAGS.verbosity = logging.WARNING  # Orbax tells a page about each checkpoint
        CONFIG.value.stages  # noqa: B018 (a config that could not be loaded says so when it is used)
    except (AttributeError, LookupError) as err:  # or made of a KeyError: 'epoch' Did you mean "epochs" ...
        why = err.args[0].args[0] if isinstance(err.args[0], KeyError) else err.args[0]
        refuse("the config has no setting " + " ".join(str(why).replace("tuple index", "of an index").split()))
    except OSError:
        known = [str(path) for path in config_file().parent.glob("*.py")]
        refuse(f"there is no config {config_file()}; {did_you_mean(str(config_file()), known)}")
    if len(rest) > 1:
        refuse(f"{rest[1]!r} is no flag: settings are given as --config.name=value")
    return rest


def refuse(why: object) -> NoReturn:
    """Prints the error and exits with status 2."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def config_file() -> Path:
    """The path in --config, without the model's name."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0])


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
