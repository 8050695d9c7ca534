"""The model of a run behind LitServe, as `benchmarks.serving litserve` starts it; its workers import this module."""

import base64
import io
import os

from litserve import LitAPI, LitServer
from PIL import Image

__all__ = ["Api", "LitServer"]


class Api(LitAPI):
    """Classes of an image, with the same preprocessing, model and batch sizes as the server of jaxdino."""

    def setup(self, device):
        import jaxdino

        self.model, most = jaxdino.load(os.environ["SERVED_WORKDIR"]), int(os.environ["SERVED_BATCH"])
        for power in range(most.bit_length()):  # compile every batch size
            self.model.predict([Image.new("RGB", (32, 32))] * (1 << power), batch_size=1 << power)

    def decode_request(self, request):
        return base64.b64decode(request["image"])

    def batch(self, inputs):
        return list(inputs)

    def predict(self, bodies):
        size = 1 << (len(bodies) - 1).bit_length()
        return self.model.predict([Image.open(io.BytesIO(body)) for body in bodies], batch_size=size)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"classes": [{"class": name, "probability": odds} for name, odds in output]}
