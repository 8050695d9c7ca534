"""Train with a config: `python -m jaxdino.main --config=configs/gradual.py:dinov3_vits16 --workdir=DIR`.

`--config=gradual` is `configs/gradual.py` in the current folder, or else the installed one. Settings are changed by
flags, as in `--config.stages[0].epochs=3`; `--help-config` lists them all with their defaults for the given config:
`--config=configs/ssl.py --help-config`. A word narrows the list: `--help-config=optimizer`.
The same command again resumes the run where it stopped.
"""

import difflib
import re
import shutil
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from jaxdino.core import processes
from jaxdino.core.command import described, expanded, finish, program, write_error
from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import in_huge_pages
from jaxdino.core.processes import WAIT as WAIT_SECONDS
from jaxdino.core.processes.ending import together
from jaxdino.core.processes.facts import of_code
from jaxdino.core.processes.place import find
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import bounded
from jaxdino.settings.check import check
from jaxdino.settings.command_line import Command, as_setting, command, split
from jaxdino.settings.listing import listing
from jaxdino.settings.tree import settings

CONFIG = flags.DEFINE_string(
    "config",
    "configs/gradual.py",
    "The strategy; a model's name may follow a colon. --config.NAME=VALUE changes a setting, see --help-config.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; by default a new one under runs/.")
DRY = flags.DEFINE_boolean(
    "dry-run",
    False,
    "Only print the data, each stage's plan, its memory and its time, from ten steps of each; write nothing.",
)
MEMORY = flags.DEFINE_string(
    "memory", None, "With --dry-run: also find the largest batch that fits the memory of a device, such as 16GiB."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Train in several processes: HOST:PORT of process 0. By default what the cluster says, if any."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes; 1 ignores the cluster.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.")
WAIT = flags.DEFINE_float("wait", WAIT_SECONDS, "Seconds until a process that does not come or answer is lost.")
HELP = "help-config"
OWN = ("data.num_workers", "data.num_threads")  # settings that each process may have of its own
UNDERSCORED = re.compile("^--?(help|dry)_(config|run)")
flags.DEFINE_flag(
    flags.Flag(
        flags.ArgumentParser(),
        flags.ArgumentSerializer(),
        HELP,
        None,
        "List every setting of --config with its default and a description, or those that match a word: "
        "--help-config=optimizer.",
        boolean=True,
    )
)


def main(argv: list[str]) -> int:
    """Run the config of the flags; return the exit status."""
    return finish(lambda: together(lambda: obey(argv)))


def obey(argv: list[str]) -> None:
    """List the settings, or train."""
    given = command(CONFIG.value, argv[1:])
    if given.installed:
        write_error(f"config: {given.file} (installed)")
    if not given.weights_name_it:
        check(given.config())  # refuses wrong settings before jax is imported
    if flags.FLAGS[HELP].present:
        show(given)
    else:
        run(given)


def show(given: Command) -> None:
    """Print the settings."""
    word, width = flags.FLAGS[HELP].value, shutil.get_terminal_size((120, 0)).columns
    config = settled(given) if given.weights_name_it else given.config()
    print(listing(config, None if word == "true" else word, width))


def run(given: Command) -> None:
    """Train, or make a dry run."""
    prepare()
    keep_programs()
    if MEMORY.value and not DRY.value:
        raise UserError(f"--memory={MEMORY.value} is read by --dry-run only: add it, or leave --memory out")
    if DRY.value:
        from jaxdino.train.dry_run import dry_run
        from jaxdino.train.memory import parse_size

        memory = parse_size(MEMORY.value) if MEMORY.value else None
        dry_run(settled(given), memory)
    else:
        join(given)
        from jaxdino.train.loop import run  # imports jax, which --help does not need

        run(settled(given), WORKDIR.value, name=given.file.stem)


def join(given: Command) -> None:
    """Meet the other processes of the run, if there are any."""
    place = find(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if place is None:
        return
    if not WAIT.value > 0:
        raise UserError(f"--wait={WAIT.value} must be above 0")
    names = processes.start(place, of_code() | {"--workdir": str(WORKDIR.value)} | of_settings(given), WAIT.value)
    if processes.chief():
        print(f"{len(names)} processes, found by {place.found_by}: {', '.join(names)}", flush=True)


def of_settings(given: Command) -> dict[str, str]:
    """Return the settings that must be equal in all processes; the config itself may depend on the weights."""
    if given.weights_name_it:
        return {f"config.{one.path}": ",".join(one.texts) for one in given.given} | {"--config": given.file.name}
    found = settings(given.config())
    return {f"config.{path}": str(one.value) for path, one in found.items() if path not in OWN}


def settled(given: Command) -> ConfigDict:
    """Return the config, for the model of its weights."""
    from jaxdino.train.origin import settle
    from jaxdino.train.workdir import say

    return settle(given, WORKDIR.value, say)


def start(argv: list[str]) -> NoReturn:
    """Train as `python -m jaxdino.main` does, from a program with another main module; exit.

    Args:
      argv: the flags.
    """
    name = sys.argv[0] = program("train")  # absl describes sys.argv[0], with the docstring of __main__
    sys.modules["__main__"].__doc__ = described("train", __doc__)
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(name, flag)
    if {"-h", "-help", "--help"} & set(argv):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    app.run(main, argv=[name, *argv], flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
    """Parse the flags, and leave those of the config to `main`; a misspelt flag prints one line and exits with 2."""
    flags.FLAGS.set_gnu_getopt(True)
    given, rest = split([argv[0], *flags.FLAGS.read_flags_from_files(expanded(argv[1:]), force_gnu=True)])
    try:
        rest = flags.FLAGS([UNDERSCORED.sub(r"--\1-\2", arg) for arg in rest], known_only=True)
    except (flags.Error, ValueError) as err:
        refuse(" ".join(str(err).split()))
    if not flags.FLAGS["verbosity"].present:
        flags.FLAGS.verbosity = logging.WARNING  # Orbax logs a page per checkpoint
    if len(rest) > 1 and flags.FLAGS[HELP].value == "true":
        flags.FLAGS[HELP].value, rest = rest[1], rest[:1]  # --help-config WORD
    if len(rest) > 1:
        refuse(unknown(*rest[1:3]))
    return [*rest, *given]


def unknown(arg: str, after: str = "-") -> str:
    """Return the message for an argument that is neither a flag nor a setting; `after` may be its value."""
    name, equals, text = arg.lstrip("-").partition("=")
    if not arg.startswith("-") and name.split(":")[0].endswith(".py"):
        return f"{arg!r} is not a flag: the config is given as --config={arg}"
    mine = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__])]
    if close := difflib.get_close_matches(name, [*mine, "help", "helpfull"], cutoff=0.75):
        return f"--{name} is not a flag; nearest: --{close[0]}"
    value = text if equals else None if after.startswith("-") else after
    try:
        meant = as_setting(name, value, settings(command(CONFIG.value, []).config()))
    except UserError:  # an error in the config, which is reported once the flags are right
        meant = None
    return f"{arg} is not a flag: {meant or 'settings are given as --config.NAME=VALUE; --help-config lists them'}"


def refuse(why: object) -> NoReturn:
    """Print the error and exit with status 2."""
    write_error(f"error: {bounded(str(why))}")
    sys.exit(2)


if __name__ == "__main__":
    in_huge_pages()
    app.run(main, flags_parser=parse)
