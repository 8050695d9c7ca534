"""The endpoints give what the Python API gives, and refuse what is wrong with a status and a reason."""

import base64
import io
import shutil
import time
import zlib

import numpy as np
import pytest
from PIL import Image

import jaxdino
from jaxdino.data.bad_images import BadImage
from jaxdino.data.kinds import open_npy

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from jaxdino.serving.server import catalogue, mask_work
from jaxdino.serving.server.app import Server
from jaxdino.serving.server.keys import read_keys
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.server.uploads import records
from tests import tiny_segmenter
from tests.serving.served_models import png, save_classifier, save_detector, save_instances, save_semantic

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ADMIN, USER = {"X-API-Key": "a" * 20}, {"Authorization": "Bearer " + "u" * 20}


def ready(client):
    for _ in range(600):
        if client.get("/health/ready").status_code == 200:
            return client
        time.sleep(0.1)
    raise AssertionError("not ready")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("models")
    tiny_segmenter.save(top / "prompted")
    kinds = {"classes": save_classifier, "boxes": save_detector, "pixels": save_semantic, "objects": save_instances}
    return {name: save(top / name) for name, save in kinds.items()} | {"prompted": top / "prompted"}


@pytest.fixture(scope="module")
def served(folders, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# who\nroot {'a' * 20} admin\nuser {'u' * 20}\n")
    settings = ServeSettings(max_batch=2, max_images=4, max_body_mb=1, max_pixels=10_000, request_timeout=120)
    lines = []
    given = [
        catalogue.opened(place, settings, lines.append)
        for place in catalogue.places(None, [f"{name}={folder}" for name, folder in folders.items()])
    ]
    log = []
    server = Server(given, settings, read_keys(str(keys)), say=lambda event, **fields: log.append((event, fields)))
    with TestClient(server.app, headers=USER) as client:
        yield ready(client), server, log


def test_classes_of_several_images_are_those_of_predict(served, folders):
    client, _, _ = served
    images = [png(n) for n in range(3)]
    found = client.post("/predict?top=2", files=[("images", (f"{n}.png", image)) for n, image in enumerate(images)])
    expected = jaxdino.load(folders["classes"]).predict([Image.open(io.BytesIO(image)) for image in images], topk=2)
    assert [one["name"] for one in found.json()["results"]] == ["0.png", "1.png", "2.png"]
    for one, classes in zip(found.json()["results"], expected, strict=True):
        assert [row["class"] for row in one["classes"]] == [name for name, _ in classes]
        assert [row["probability"] for row in one["classes"]] == pytest.approx([odds for _, odds in classes], abs=1e-5)


def test_every_kind_of_model_answers_as_in_python(served, folders):
    client, _, _ = served
    image, picture = png(5), Image.open(io.BytesIO(png(5)))
    post = {"content": image, "headers": USER | {"Content-Type": "image/png"}}
    features = client.post("/embed", **post).json()["results"][0]["embedding"]
    model = jaxdino.load(folders["classes"])
    np.testing.assert_allclose(features, np.asarray(model(model.preprocess([picture])).cls[0]), atol=1e-4)

    found = client.post("/detect?model=boxes&threshold=0.01", **post).json()["results"][0]["objects"]
    expected = jaxdino.load(folders["boxes"]).detect([picture], threshold=0.01)[0]
    assert [one["class"] for one in found] == list(expected.names)
    assert len(found)
    np.testing.assert_allclose([one["box"] for one in found], expected.boxes, atol=0.02)

    found = client.post("/segment?model=pixels", **post).json()["results"][0]
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"]))))
    np.testing.assert_array_equal(mask, jaxdino.load(folders["pixels"]).segment([picture])[0])
    assert sum(one["share"] for one in found["classes"]) == pytest.approx(1)

    found = client.post("/segment?model=objects&threshold=0.2", **post).json()["results"][0]
    expected = jaxdino.load(folders["objects"]).masks([picture], threshold=0.2)[0]
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"]))))
    np.testing.assert_array_equal(mask, expected.ids)
    assert [one["class"] for one in found["regions"]] == list(expected.names)
    assert len(expected.names)
    for one, shown in zip(found["regions"], expected.masks, strict=True):
        left, top, right, bottom = one["box"]
        assert shown[top:bottom, left:right].sum() == shown.sum() == (mask == one["value"]).sum()

    prompts = ["red circle", "blue square"]
    found = client.post("/segment", params={"model": "prompted", "prompt": prompts}, **post).json()["results"][0]
    expected = jaxdino.load(folders["prompted"]).segment(picture, prompts)
    for n, one in enumerate(found["masks"]):
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["mask"]))))
        np.testing.assert_array_equal(mask > 0, expected.masks[n])
        assert one["score"] == pytest.approx(expected.scores[n], abs=1e-4)


def bomb(side: int) -> bytes:
    """A PNG of one bit a pixel, whose header says side x side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9000000, 9000000, 3), }".ljust(128)
BAD = {
    "no key": (401, {"headers": {"X-API-Key": "?", "Authorization": ""}, "files": {"images": png(0)}}),
    "no image": (422, {"files": {"images": b""}}),
    "another part": (400, {"files": {"photo": png(0)}}),
    "no form": (415, {"content": b"x", "headers": {"Content-Type": "text/html"}}),
    "a broken form": (400, {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}),
    "form without boundary": (400, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
    "cut off": (422, {"files": {"images": png(0)[:200]}}),
    "no picture": (422, {"files": {"images": ("a.png", b"<html>")}}),
    "a bomb": (422, {"files": {"images": bomb(50_000)}}),
    "an array as a bomb": (422, {"files": {"images": ("a.npy", HEADER + b"\n")}}),
    "a large body": (413, {"content": bytes(2 << 20), "headers": {"Content-Type": "image/png"}}),
    "many images": (413, {"files": [("images", png(n)) for n in range(5)]}),
    "unknown model": (404, {"params": {"model": "../../etc"}, "files": {"images": png(0)}}),
    "unknown version": (404, {"params": {"version": "9"}, "files": {"images": png(0)}}),
    "another ability": (404, {"params": {"model": "boxes"}, "files": {"images": png(0)}}),
    "top": (422, {"params": {"top": 0}, "files": {"images": png(0)}}),
    "threshold": (422, {"params": {"threshold": "nan"}, "files": {"images": png(0)}}),
    "a misspelt parameter": (422, {"params": {"treshold": 0.5}, "files": {"images": png(0)}}),
    "threshold of one label": (422, {"params": {"threshold": 0.5}, "files": {"images": png(0)}}),
}


def test_an_array_whose_header_promises_more_than_its_file_is_refused_before_memory_is_taken():
    record = records([("a.npy", HEADER + b"\n" + bytes(1000))])[0]
    with pytest.raises(BadImage, match="its header says 243000000000000 bytes"):
        open_npy(record)


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_with_a_reason(served, name):
    client, _, _ = served
    status, request = BAD[name]
    answer = client.post("/predict", **request)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "message"}
    assert answer.headers["x-request-id"]
    assert "/" not in answer.json()["message"].replace("multipart/form-data", "").replace("image/", "") or status != 422


def test_one_unreadable_image_does_not_cost_the_others(served):
    client, _, _ = served
    files = [("images", ("good.png", png(0))), ("images", ("../../bad.png", b"nothing"))]
    found = client.post("/predict", files=files).json()["results"]
    assert found[0]["classes"]
    assert found[1] == {"name": "bad.png", "error": "not an image Pillow knows"}


def test_masks_that_take_too_much_memory_are_refused(served, monkeypatch):
    client, _, _ = served
    monkeypatch.setattr(mask_work, "MOST_DRAWN", 100)
    answer = client.post("/segment?model=objects&threshold=0.2", files={"images": png(5)})
    assert answer.status_code == 422 and "send a smaller image" in answer.json()["message"]


def test_metrics_and_logs_say_what_was_done_and_hold_no_image(served):
    client, _, log = served
    client.post("/predict", files={"images": ("secret-name.png", png(1))}, headers={"X-Request-ID": "mine"})
    text = client.get("/metrics").text
    for line in (
        'jaxdino_requests_total{endpoint="/predict",status="200"}',
        'jaxdino_classes_total{class="',
        'jaxdino_batch_images_count{model="classes",version="1"}',
        'jaxdino_confidence_count{model="classes",version="1"}',
        "jaxdino_ready 1.0",
    ):
        assert line in text
    fields = next(fields for event, fields in log if event == "request" and fields["request_id"] == "mine")
    assert (fields["client"], fields["model"], fields["images"], fields["status"]) == ("user", "classes", 1, 200)
    assert "secret" not in str(log)


def test_a_damaged_model_is_refused_and_the_old_one_serves_on(served, folders, tmp_path):
    client, server, log = served
    folder, kept = folders["classes"], tmp_path / "kept"
    shutil.copytree(folder, kept)
    before = client.get("/models").json()["models"][0]["digest"]
    assert client.post("/models/classes/reload").status_code == 403
    assert client.post("/models/nobody/reload", headers=ADMIN).status_code == 404
    try:
        (folder / "model.json").write_text("{}")
        refused = client.post("/models/classes/reload", headers=ADMIN)
        assert refused.status_code == 409, refused.text
        assert "still served" in refused.json()["message"]
        assert client.post("/predict", files={"images": png(0)}).json()["digest"] == before
        shutil.rmtree(folder)
        save_classifier(folder, seed=7)
        assert server.catalogue.changed()
        assert client.post("/models/classes/reload", headers=ADMIN).status_code == 200
        after = client.post("/predict", files={"images": png(0)}).json()["digest"]
        assert after != before
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    assert [event for event, _ in log if "reload" in event] == ["reload refused", "reloaded"]


def test_pages_load_nothing_from_elsewhere(served):
    client, _, _ = served
    for path in ("/", "/docs"):
        answer = client.get(path, headers={"Authorization": ""})
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "://" not in answer.text.replace("http://HOST:PORT", "")
    document = client.get("/openapi.json").json()
    assert {"/predict", "/embed", "/segment", "/detect", "/models/{name}/reload"} <= set(document["paths"])
