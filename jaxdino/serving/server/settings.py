"""Settings of the server: flags of `jaxdino serve`, or a JSON file with the same names."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any, get_type_hints

from jaxdino.core import options
from jaxdino.core.json_file import read_json

MIB = 2**20


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclasses.dataclass(frozen=True)
class ServeSettings:
    """How the server listens, batches and refuses. The meaning of each field is its `help`."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every network interface")
    port: int = _setting(8000, "port; 0 takes a free one")
    max_batch: int = _setting(32, "most images of one forward pass; a power of two")
    max_wait_ms: float = _setting(5.0, "longest time that an image waits for a batch to fill, in milliseconds")
    max_queue: int = _setting(256, "most images that wait or are computed; more are answered with 503")
    max_requests: int = _setting(256, "most requests at a time, before their bodies are read; more get 503")
    max_images: int = _setting(32, "most images of one request")
    max_body_mb: float = _setting(20.0, "largest body of a request, in MiB")
    max_memory_mb: float = _setting(512.0, "most MiB of all bodies that are held at a time; more get 503")
    max_pixels: int = _setting(32 * MIB, "an image with more pixels is refused before it is decoded")
    header_timeout: float = _setting(10.0, "seconds in which the header of a request must arrive")
    keep_alive: float = _setting(75.0, "seconds that an idle connection stays open; more than a proxy keeps it")
    body_timeout: float = _setting(30.0, "seconds in which the body of a request must arrive")
    request_timeout: float = _setting(30.0, "seconds in which a request must be computed; later it gets 503")
    drain_delay: float = _setting(0.0, "seconds after SIGTERM in which new requests are still taken (not ready)")
    drain_timeout: float = _setting(30.0, "seconds after SIGTERM for requests that have begun")
    per_client: int = _setting(0, "most requests at a time of one API key or address; more get 429; 0 is no limit")
    watch_seconds: float = _setting(0.0, "look this often for a changed model folder and reload it; 0 is never")
    threads: int = _setting(0, "threads that decode images; 0 is one for each core, at most 8")
    dtype: str = _setting("float32", "of the computation: float32, bfloat16 or float16")
    sixteen_bit: str = _setting("", "black and white of 16-bit images: full, image, window, percentiles or 0,4095")
    api_keys: str = _setting("", "file of API keys, `NAME KEY [admin]` a line; without it everybody may predict")
    log_predictions: str = _setting("", "folder for predictions as parquet files: time, model, classes, no images")
    log_mlflow: str = _setting("", "the same files as artefacts of a run in MLflow: address of a server, or a folder")
    alert_command: str = _setting("", "program that gets an alert as JSON on standard input when drift begins or ends")
    alert_webhook: str = _setting("", "address that alerts are sent to as JSON")
    cors: tuple[str, ...] = _setting((), "origin of web pages that may call the server; may be repeated")
    allow_url: tuple[str, ...] = _setting((), "host that images may be fetched from, or *.HOST; may be repeated")

    def __post_init__(self):
        if self.max_batch < 1 or self.max_batch & (self.max_batch - 1):
            options.check_range("--max_batch", self.max_batch, "[1, inf)")
            near = 1 << (self.max_batch.bit_length() - 1)
            raise options.UserError(f"--max_batch {self.max_batch} is not a power of two: give {near} or {2 * near}")
        options.check_range("--port", self.port, "[0, 65535]")
        for name in ("max_queue", "max_requests", "max_images", "max_pixels"):
            options.check_range(f"--{name}", getattr(self, name), "[1, inf)")
        for name in ("max_body_mb", "max_memory_mb", "header_timeout", "keep_alive", "body_timeout", "request_timeout"):
            options.check_range(f"--{name}", getattr(self, name), "(0, inf)")
        for name in ("max_wait_ms", "drain_delay", "drain_timeout", "per_client", "watch_seconds", "threads"):
            options.check_range(f"--{name}", getattr(self, name), "[0, inf)")
        options.check_choice("--dtype", self.dtype, ("float32", "bfloat16", "float16"))

    @property
    def decoders(self) -> int:
        """Number of threads that decode."""
        return self.threads or min(8, os.cpu_count() or 1)

    @property
    def max_body(self) -> int:
        """Bytes of the largest body."""
        return int(self.max_body_mb * MIB)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting."""
    hints = get_type_hints(ServeSettings)
    for field in dataclasses.fields(ServeSettings):
        several, text = field.type == tuple[str, ...], field.metadata["help"].replace("%", "%%")
        if several:
            parser.add_argument(f"--{field.name}", action="append", metavar="TEXT", help=text)
            continue
        shown = "" if field.default in ("", None) else f" (default {field.default})"
        parser.add_argument(f"--{field.name}", type=hints[field.name], metavar="VALUE", help=text + shown)


def read_settings(args: argparse.Namespace, file: str | None) -> ServeSettings:
    """Return the settings of a file, replaced by those of the flags.

    Raises:
      UserError: for a file that is not JSON, an unknown name, and a value out of range.
    """
    names = [field.name for field in dataclasses.fields(ServeSettings)]
    flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    given = read_json(Path(file), dict) if file else {}
    return options.read(ServeSettings, {**given, **flags}, file or "serve")
