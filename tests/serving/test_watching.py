"""Drift: distances, thresholds, alarms on corrupted digits and none on others; the log of predictions; alerts."""

import http.server
import json
import shlex
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from jaxdino.core.errors import UserError
from jaxdino.evaluation.corruptions import corrupted

pytest.importorskip("fastapi")

from jaxdino.serving.server import catalogue
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.server.work import Asked, Seen
from jaxdino.serving.watching import distances, mlflow_run, reference
from jaxdino.serving.watching.alerts import Alerts
from jaxdino.serving.watching.drift import DriftWatch, sample_of
from jaxdino.serving.watching.prediction_log import Folder, PredictionLog
from tests.serving.served_models import save_classifier

RNG = np.random.default_rng(0)


def test_psi_is_that_of_a_worked_example():
    # shares 0.5/0.5 and 0.75/0.25: 0.25 ln 1.5 - 0.25 ln 0.5; the half image in each bin vanishes in a million
    expected = 0.25 * np.log(1.5) - 0.25 * np.log(0.5)
    assert distances.psi([500_000, 500_000], [750_000, 250_000]) == pytest.approx(expected, rel=1e-4)
    assert distances.psi([10, 0], [0, 10]) < np.inf


def test_mmd_is_unbiased_and_that_of_its_definition():
    a, b, scale = RNG.normal(size=(6, 3)), RNG.normal(size=(5, 3)), 2.0

    def kernel(x, y):
        return np.exp(-((x - y) ** 2).sum() / scale)

    same_a = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    same_b = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert distances.mmd2(a, b, scale) == pytest.approx(same_a + same_b - 2 * across)
    draws = [distances.mmd2(RNG.normal(size=(20, 2)), RNG.normal(size=(30, 2)), 2.0) for _ in range(300)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(300)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = save_classifier(tmp_path_factory.mktemp("watched") / "model")
    settings = ServeSettings(max_batch=32)
    return catalogue.opened(catalogue.places(str(folder), [])[0], settings, print)


@pytest.fixture(scope="module")
def digits(served):
    images = load_digits().images
    grey = np.repeat(np.repeat(images / 16 * 255, 4, 1), 4, 2).astype(np.uint8)
    return np.repeat(grey[RNG.permutation(len(grey))[:768], ..., None], 3, -1)


def seen(served, images):
    work, found = served.works["predict"], []
    for first in range(0, len(images), 32):
        for result in work.compute(list(images[first : first + 32])):
            found.append(work.answer("predict", result, Asked())[1])
    return found


@pytest.fixture(scope="module")
def kept(served, digits):
    found = reference.made(sample_of(seen(served, digits[:384])), served.model.digest, 3, window=128)
    reference.save(found, Path(served.place.source))
    return found


def test_held_out_windows_raise_no_alarm_and_corrupted_ones_do(served, digits, kept, tmp_path):
    of = reference.load(served.place.source, served.model.digest)
    assert of.thresholds == dict(kept.thresholds)
    rest = digits[384:]
    for first in range(0, len(rest), 128):
        assert of.alarms(of.measure(sample_of(seen(served, rest[first : first + 128])))) == []
    images, places = jnp.asarray(rest[:128], jnp.float32) / 255, jnp.arange(128)
    worse = corrupted("gaussian_noise", 5, jax.random.key(0), images, places)
    bad = seen(served, np.asarray(worse * 255).astype(np.uint8))
    assert "mmd" in of.alarms(of.measure(sample_of(bad)))

    lines, metrics, told = [], Metrics(), tmp_path / "told"
    script = f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read())"

    def say(event, **fields):
        lines.append((event, fields))

    watch = DriftWatch(metrics, Alerts(shlex.join([sys.executable, "-c", script]), "", say), say)
    for one in (*seen(served, rest[:128]), *bad, *bad, *seen(served, rest[128:256])):
        watch.saw(served, "predict", "1", one)
    watch.close()
    alerts = [json.loads(line) for line in told.read_text().splitlines()]
    assert [one["alarm"] for one in alerts] == [True, False]  # once when it begins, once when it ends
    assert alerts[0]["measures"]["mmd"] > alerts[0]["thresholds"]["mmd"]
    assert 'jaxdino_drift_windows_total{model="model",version="1"} 4.0' in metrics.text().decode()
    assert [event for event, _ in lines] == ["drift is watched", "drift", "drift"]


def test_a_reference_of_other_weights_or_a_damaged_one_is_refused(served, kept, tmp_path):
    with pytest.raises(UserError, match="other weights"):
        reference.load(served.place.source, "0" * 64)
    with pytest.raises(UserError, match="--make_reference"):
        reference.load(tmp_path, served.model.digest)
    place = reference.save(kept, tmp_path)
    (place / reference.ARRAYS).write_bytes(b"damaged")
    with pytest.raises(UserError, match="no reference"):
        reference.load(tmp_path, served.model.digest)
    few = sample_of([Seen([], None, np.zeros(4, np.float32))] * 5)
    with pytest.raises(UserError, match="at least 60 images"):
        reference.made(few, "", 0, 10)


def test_predictions_are_logged_whole_and_without_images(served, tmp_path):
    log = PredictionLog(Folder(str(tmp_path / "log")), seconds=60)
    for n in range(3):
        log.saw(served, "predict", f"r{n}", Seen([("cat", 0.7), ("dog", 0.2)]))
    log.saw(served, "embed", "r9", Seen([]))
    log.close()
    (file,) = (tmp_path / "log").iterdir()
    rows = pq.read_table(file).to_pylist()
    assert [row["request_id"] for row in rows] == ["r0", "r1", "r2"]
    assert rows[0]["class"] == "cat"
    assert rows[0]["probability"] == pytest.approx(0.7)
    assert rows[0]["classes"][1]["class"] == "dog"
    assert rows[0]["digest"] == served.model.digest


def test_predictions_that_cannot_be_written_are_counted(served, tmp_path, monkeypatch):
    lost, failed = [], []
    log = PredictionLog(Folder(str(tmp_path / "log")), lambda: lost.append(1), failed.append, seconds=60)
    for n in range(3):
        log.saw(served, "predict", f"r{n}", Seen([("cat", 0.7)]))
    monkeypatch.setattr(pq, "write_table", lambda table, path: (_ for _ in ()).throw(OSError(28, "no space left")))
    log.close()
    assert "no space left" in str(failed[0])
    assert len(lost) == 3 and not list((tmp_path / "log").iterdir())


@pytest.mark.filterwarnings("ignore:.*filesystem tracking backend:FutureWarning")
def test_predictions_are_logged_to_mlflow(served, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name in mlflow_run.DEFAULTS:
        monkeypatch.setenv(name, mlflow_run.DEFAULTS[name])
    log = PredictionLog(mlflow_run.MLflowRun(str(tmp_path / "tracked")), seconds=60)
    for n in range(3):
        log.saw(served, "predict", f"r{n}", Seen([("cat", 0.5 + n / 10)]))
    log.close()
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "tracked").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name(mlflow_run.EXPERIMENT).experiment_id])
    name = served.place.name
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx({f"{name}/predictions": 3, f"{name}/probability": 0.6})
    (file,) = (tmp_path / "tracked").rglob("*.parquet")
    assert [row["request_id"] for row in pq.read_table(file).to_pylist()] == ["r0", "r1", "r2"]
    with pytest.raises(UserError, match="no run can be created there"):
        mlflow_run.MLflowRun("http://127.0.0.1:9")


def test_a_web_hook_gets_the_alert_and_a_broken_one_is_logged():
    got, lines = [], []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        Alerts("", address, lambda event, **fields: lines.append(event)).send({"event": "drift", "alarm": True})
    finally:
        server.shutdown()
        server.server_close()
    Alerts("", address, lambda event, **fields: lines.append(event)).send({"event": "drift", "alarm": False})
    assert got == [{"event": "drift", "alarm": True}]
    assert lines == ["drift", "drift", "alert webhook failed"]
    for command, hook in (("nowhere-to-be-found", ""), ("", "ftp://x"), ("'", "")):
        with pytest.raises(UserError, match="--alert_"):
            Alerts(command, hook, print)
