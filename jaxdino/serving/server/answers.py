"""The forms of answers, as the OpenAPI document describes them, and their JSON."""

import json
from typing import Any

from pydantic import BaseModel, Field

from jaxdino.core.json_file import finite


class Error(BaseModel):
    """A request that was refused."""

    error: str = Field(description="one word for the reason, such as body_too_large")
    message: str = Field(description="what is wrong and how to fix it")


class ClassOdds(BaseModel):
    """A class and its probability."""

    class_: str = Field(alias="class")
    probability: float


class Base(BaseModel):
    """An image that was answered, or the reason why it could not be decoded."""

    name: str = Field(description="the file name that was sent, or its place among the images")
    error: str | None = Field(None, description="why this image cannot be decoded; then it has no other fields")


class Predicted(Base):
    classes: list[ClassOdds] | None = Field(None, description="the most probable first")


class Embedded(Base):
    embedding: list[float] | None = None


class FoundObject(BaseModel):
    class_: str = Field(alias="class")
    score: float
    box: list[float] = Field(description="left, top, right, bottom in pixels of the upright image")


class Detected(Base):
    width: int | None = None
    height: int | None = None
    objects: list[FoundObject] | None = None


class ClassShare(BaseModel):
    class_: str = Field(alias="class")
    value: int = Field(description="of its pixels in the mask")
    share: float = Field(description="of the image that it covers")


class PromptMask(BaseModel):
    prompt: str
    score: float = Field(description="predicted overlap with the true mask, 0 to 1")
    share: float
    mask: str = Field(description="PNG in base64, 0 and 255, of the image's own size")


class Segmented(Base):
    width: int | None = None
    height: int | None = None
    classes: list[ClassShare] | None = Field(None, description="of a model with classes of its own")
    mask: str | None = Field(None, description="PNG in base64 of the image's own size: the value of each pixel's class")
    masks: list[PromptMask] | None = Field(None, description="of a model that takes prompts")


class Answer(BaseModel):
    """What every answer says about the model."""

    model: str
    version: str
    digest: str = Field(description="SHA-256 of the weights")


class Predictions(Answer):
    results: list[Predicted] = Field(description="one for each image, in order")


class Embeddings(Answer):
    results: list[Embedded]


class Detections(Answer):
    results: list[Detected]


class Segmentations(Answer):
    results: list[Segmented]


class ModelInfo(BaseModel):
    name: str
    version: str
    default: bool
    architecture: str
    digest: str
    endpoints: list[str]
    prompts: bool = Field(description="whether /segment takes prompts")
    classes: list[str]


class Models(BaseModel):
    models: list[ModelInfo]


class Health(BaseModel):
    status: str = Field(description="ok, starting or draining")


FORMS: dict[str, type[Answer]] = {
    "predict": Predictions,
    "embed": Embeddings,
    "segment": Segmentations,
    "detect": Detections,
}
"""{endpoint: form of its answer}."""


def as_bytes(value: Any) -> bytes:
    """Return JSON, in as few bytes as it takes. NaN and inf become null."""
    how: Any = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    try:
        text = json.dumps(value, **how)
    except ValueError:
        text = json.dumps(finite(value), **how)
    return text.encode("utf-8", "replace")
