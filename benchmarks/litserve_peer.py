"""The model of a run behind LitServe, as `benchmarks.serving litserve` starts it; its workers import this module."""

import base64
import os

from litserve import LitAPI, LitServer

__all__ = ["Api", "LitServer"]


class Api(LitAPI):
    """Classes of an image: decoding, model, batch sizes and choice of classes are those of the server of jaxdino."""

    def setup(self, device):
        from jaxdino.core.processor import prepare
        from jaxdino.core.program_cache import keep_programs
        from jaxdino.serving.server.catalogue import Place, opened
        from jaxdino.serving.server.settings import ServeSettings
        from jaxdino.serving.server.uploads import records
        from jaxdino.serving.server.work import Asked

        prepare()
        keep_programs()
        settings = ServeSettings(max_batch=int(os.environ["SERVED_BATCH"]))
        self.work = opened(Place("model", "1", os.environ["SERVED_WORKDIR"]), settings, print).work("predict")
        self.work.warm(lambda size: None)
        self.records, self.asked = records, Asked()

    def decode_request(self, request):
        (record,) = self.records([("image", base64.b64decode(request["image"]))])
        return self.work.read(record, self.asked)

    def batch(self, inputs):
        return inputs

    def predict(self, images):
        return self.work.compute(images)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return self.work.answer("predict", output, self.asked)[0]
