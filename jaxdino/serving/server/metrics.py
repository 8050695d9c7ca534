"""Counters and histograms for Prometheus."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

disable_created_metrics()  # a time for each counter, which nothing reads
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = tuple(1 << power for power in range(11))
ODDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
MOST_CLASSES = 200
OTHER = "(other)"


class Metrics:
    """The metrics of one server; each has a registry of its own, so that tests do not share numbers."""

    def __init__(self):
        self.registry = CollectorRegistry()
        of = ("model", "version")
        more: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("jaxdino_requests", "Requests that were answered", ("endpoint", "status"), **more)
        self.seconds = Histogram(
            "jaxdino_request_seconds", "Seconds from the header to the answer", ("endpoint",), buckets=SECONDS, **more
        )
        self.refused = Counter("jaxdino_refused", "Requests that were refused, by reason", ("reason",), **more)
        self.running = Gauge("jaxdino_requests_running", "Requests that are being answered", **more)
        self.images = Counter("jaxdino_images", "Images that were computed", (*of, "endpoint"), **more)
        self.bad = Counter("jaxdino_images_unreadable", "Images that could not be decoded", of, **more)
        self.batch_size = Histogram("jaxdino_batch_images", "Images of a batch", of, buckets=SIZES, **more)
        self.batch_seconds = Histogram(
            "jaxdino_batch_seconds", "Seconds of computation of a batch", of, buckets=SECONDS, **more
        )
        self.queue_seconds = Histogram(
            "jaxdino_queue_seconds", "Seconds that a decoded image waits for its batch", of, buckets=SECONDS, **more
        )
        self.queue = Gauge("jaxdino_queue_images", "Images that were accepted and are not answered yet", of, **more)
        self.confidence = Histogram("jaxdino_confidence", "Largest probability of an image", of, buckets=ODDS, **more)
        self.classes = Counter("jaxdino_classes", "Images by their most probable class", (*of, "class"), **more)
        self.reloads = Counter("jaxdino_reloads", "Attempts to reload a model", ("model", "result"), **more)
        self.info = Gauge("jaxdino_model", "1 for each model that is served", (*of, "digest"), **more)
        self.ready = Gauge("jaxdino_ready", "Whether all models are compiled and requests are taken", **more)
        self.drift = Gauge("jaxdino_drift", "Distance of the last window from the reference", (*of, "measure"), **more)
        self.drift_threshold = Gauge(
            "jaxdino_drift_threshold", "Distance from which there is an alarm", (*of, "measure"), **more
        )
        self.drift_alarm = Gauge("jaxdino_drift_alarm", "Whether the last window raised an alarm", of, **more)
        self.drift_windows = Counter("jaxdino_drift_windows", "Windows that were compared", of, **more)
        self.unlogged = Counter("jaxdino_predictions_unlogged", "Predictions that the log had no room for", **more)
        self.registry.register(_Memory())
        self._known: dict[tuple[str, str], set[str]] = {}

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text form."""
        return generate_latest(self.registry)

    def saw_batch(self, model: str, version: str, count: int, seconds: float, waits: Sequence[float]) -> None:
        """Record a computed batch."""
        self.batch_size.labels(model, version).observe(count)
        self.batch_seconds.labels(model, version).observe(seconds)
        queue = self.queue_seconds.labels(model, version)
        for wait in waits:
            queue.observe(wait)

    def saw_classes(self, model: str, version: str, classes: Sequence[tuple[str, float]]) -> None:
        """Record the classes of an image, the most probable first. Beyond `MOST_CLASSES` they are counted together."""
        if not classes:
            return
        name, odds = classes[0]
        known = self._known.setdefault((model, version), set())
        if name not in known and len(known) >= MOST_CLASSES:
            name = OTHER
        known.add(name)
        self.classes.labels(model, version, name).inc()
        self.confidence.labels(model, version).observe(odds)


class _Memory(Collector):
    """Memory of the process and of the devices, read when Prometheus asks."""

    def collect(self) -> Any:
        process = GaugeMetricFamily("jaxdino_process_memory_bytes", "Resident memory of the process")
        file = Path("/proc/self/statm")
        if file.exists():
            process.add_metric([], int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        yield process
        yield from self._devices()

    def _devices(self) -> Any:
        import jax

        device = GaugeMetricFamily("jaxdino_device_memory_bytes", "Memory of a device", labels=["device", "kind"])
        for one in jax.local_devices():
            stats = one.memory_stats() or {}  # None on a CPU
            for kind in ("bytes_in_use", "peak_bytes_in_use", "bytes_limit"):
                if kind in stats:
                    device.add_metric([str(one.id), kind], stats[kind])
        yield device
