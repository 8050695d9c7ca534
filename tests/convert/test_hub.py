"""Weights by name: what is fetched, and what is said when it cannot be."""

import pytest

import jaxdino
from convert.hub import find


def test_hub_without_network_says_where_to_get_the_file(monkeypatch):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise huggingface_hub.errors.GatedRepoError.__new__(huggingface_hub.errors.GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        jaxdino.UserError, match=r"gated.*huggingface.co/facebook/dinov3-vits16.*--config.model.weights"
    ):
        find("dinov3_vits16")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(jaxdino.UserError, match=r"could not be fetched.*github.com/facebookresearch/dinov2"):
        find("facebook/dinov2-small")


@pytest.mark.parametrize(("status", "why"), [(401, "is gated"), (403, "is gated"), (500, "could not be fetched")])
def test_refusals_of_the_hub(monkeypatch, status, why):
    import huggingface_hub

    error = OSError("401 times out of 403")  # the words do not count, the response does
    error.response = type("Response", (), {"status_code": status})()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: (_ for _ in ()).throw(error))
    with pytest.raises(jaxdino.UserError, match=why):
        find("someone/model")
