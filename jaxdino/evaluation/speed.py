"""The section of speed and size: images a second, latency, parameters, operations, memory."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.evaluation.context import Context
from jaxdino.evaluation.figure import Figure, figure
from jaxdino.evaluation.predictions import forward
from jaxdino.evaluation.section import Notes, Section, Table

SECONDS, MOST, WARM = 3.0, 200, 3
"""Each batch size is timed for so long, for at most so many passes, after some that do not count."""
PERCENTILES = (50, 95, 99)
METHOD = "95% percentile bootstrap of the passes"


def speed(context: Context) -> list[Section]:
    """Time the network on images that are on the device already: reading files is not part of it."""
    model = context.run.model
    size, channels = model.card.spec.preprocess.size, len(model.card.spec.preprocess.mean)
    compiled = jax.jit(lambda flat, images: forward(model, flat, images.astype(jnp.float32) / 255)[0])
    values: dict[str, Any] = {"device": jax.devices()[0].device_kind, "parameters": model.num_params, "batches": {}}
    rows, memory, operations = [], None, None
    for batch in dict.fromkeys((1, context.settings.batch_size)):
        images = jnp.zeros((batch, *size, channels), jnp.uint8)
        traced = compiled.trace(model.flat, images)
        program = traced.lower().compile()
        times = _times(lambda program=program, images=images: program(model.flat, images))
        seconds = _seconds(times, context.settings.seed)
        half = seconds["p50"]
        ends = (half.low, half.high) if half.low and half.high else (np.nan, np.nan)
        rate = figure(batch / np.median(times), len(times), (batch / ends[1], batch / ends[0]), half.method)
        values["batches"][str(batch)] = {"images_per_second": rate, "seconds": seconds, "passes": len(times)}
        cells = [_scaled(one, 1000).text(".2f") for one in seconds.values()]
        rows.append([str(batch), rate.text(".1f"), *cells, str(len(times))])
        if batch == 1:
            operations = _operations(traced)
        memory = _memory(program)
    values |= {"flops_per_image": operations, "memory_bytes": memory}
    whole = [
        ["parameters", f"{model.num_params:,}"],
        ["operations of one image (XLA's estimate)", _operations_shown(operations)],
        [
            "memory of the largest batch (XLA's plan)",
            _shown(memory, 2**20, "MiB"),
        ],
    ]
    heads = ["batch", "images/s", *(f"latency in ms, {at} %" for at in PERCENTILES), "passes"]
    notes = [f"Device: {values['device']}. Images are on the device; reading and decoding files is not part of it."]
    notes += ["Other programs on the machine slow this down; the percentiles of few passes are rough."]
    return [Section("speed", "Speed and size", values, [Table(heads, rows), Table(["", ""], whole), Notes(notes)])]


def _operations_shown(operations: Figure | None) -> str:
    large = operations is not None and (operations.value or 0) >= 1e9
    return _shown(operations, *((1e9, "GFLOP") if large else (1e6, "MFLOP")))


def _times(work: Any) -> np.ndarray:
    for _ in range(WARM):
        jax.block_until_ready(work())
    found, begun = [], time.perf_counter()
    while len(found) < WARM or (len(found) < MOST and time.perf_counter() - begun < SECONDS):
        start = time.perf_counter()
        jax.block_until_ready(work())
        found.append(time.perf_counter() - start)
    return np.array(found)


def _seconds(times: np.ndarray, seed: int) -> dict[str, Figure]:
    """Return the percentiles of the times of passes, with intervals over resamples of the passes."""
    drawn = np.random.default_rng(seed).choice(times, (1000, len(times)))
    spans = np.percentile(np.percentile(drawn, PERCENTILES, axis=1), (2.5, 97.5), axis=1)
    return {
        f"p{at}": figure(np.percentile(times, at), len(times), (spans[0, i], spans[1, i]), METHOD)
        for i, at in enumerate(PERCENTILES)
    }


def _scaled(one: Figure, factor: float) -> Figure:
    parts = {key: None if (value := getattr(one, key)) is None else factor * value for key in ("value", "low", "high")}
    return dataclasses.replace(one, **parts)


def _operations(traced: Any) -> Figure:
    """Count the operations of the form for GPUs: on a CPU some work is a loop over parts, of which XLA counts one."""
    cost = traced.lower(lowering_platforms=("cuda",)).cost_analysis() or {}
    return figure(cost.get("flops"), 1, method="no interval: counted", why="the compiler gives no count on this device")


def _memory(program: Any) -> Figure:
    found = program.memory_analysis()
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    total = None if found is None else sum(getattr(found, part, 0) for part in parts)
    return figure(total, 1, method="no interval: planned", why="the compiler gives no plan on this device")


def _shown(one: Figure | None, unit: float, name: str) -> str:
    return "-" if one is None or one.value is None else f"{one.value / unit:,.2f} {name}"
