"""Which work a loaded model does."""

from jaxdino.api.detector import Detector
from jaxdino.api.instances import InstanceModel
from jaxdino.api.model import Model
from jaxdino.api.segmenter import Segmenter
from jaxdino.api.semantic import SemanticModel
from jaxdino.core.errors import UserError
from jaxdino.data.channels import Reading
from jaxdino.evals.report import check_sight
from jaxdino.serving.server.image_work import Classifying, Detecting
from jaxdino.serving.server.mask_work import Instances, Prompted, Semantic
from jaxdino.serving.server.work import Work


def works_of(model: Model, reading: Reading, max_batch: int) -> dict[str, Work]:
    """Return {endpoint: work} of a loaded model.

    Raises:
      UserError: for a model that can serve nothing: a projection head, a text tower.
    """
    check_sight(model)
    if isinstance(model, Detector):
        found: Work = Detecting(model, reading, max_batch)
    elif isinstance(model, SemanticModel):
        found = Semantic(model, reading, max_batch)
    elif isinstance(model, InstanceModel):
        found = Instances(model, reading, max_batch)
    elif isinstance(model, Segmenter):
        found = Prompted(model, reading, max_batch)
    elif "preprocess" in model.lacks:
        raise UserError(f"{model.name} cannot be served: it takes no images as files")
    else:
        found = Classifying(model, reading, max_batch)
    return dict.fromkeys(found.endpoints, found)
