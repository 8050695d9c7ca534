"""The forms of answers, as the OpenAPI document describes them, and their JSON."""

import json
from typing import Any

from pydantic import BaseModel, Field

from jaxdino.core.json_file import finite
from jaxdino.serving.server.refusal import REASONS


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


class Region(BaseModel):
    class_: str = Field(alias="class")
    score: float
    value: int = Field(description="of its pixels in the mask; 0 is none")
    share: float = Field(description="of the image that it covers")
    box: list[float] = Field(description="left, top, right, bottom in pixels of the upright image")


class PromptMask(BaseModel):
    prompt: str
    score: float = Field(description="predicted overlap with the true mask, 0 to 1")
    share: float
    mask: str = Field(description="PNG in base64, 0 and 255, of the image's own size")


class Segmented(Base):
    width: int | None = None
    height: int | None = None
    classes: list[ClassShare] | None = Field(None, description="of a model with classes of its own")
    regions: list[Region] | None = Field(None, description="of objects with masks, in the order of values")
    mask: str | None = Field(
        None, description="PNG in base64 of the image's own size: the value of each pixel's class or region"
    )
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
    scores: bool = Field(description="whether it finds objects, so that threshold is taken")
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


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of refusals with these statuses."""
    return {status: {"model": Error, "description": REASONS[status]} for status in statuses}


def body(urls: bool) -> dict[str, Any]:
    """Return what OpenAPI says of the body of a request; `urls`: whether it may be addresses of images."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "type": "object",
        "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}},
        "required": ["images"],
        "additionalProperties": False,
    }
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    content |= dict.fromkeys(("image/jpeg", "image/png", "image/webp", "application/octet-stream"), binary)
    if urls:
        listed = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        content["application/json"] = {
            "schema": {
                "type": "object",
                "properties": {"urls": listed},
                "required": ["urls"],
                "additionalProperties": False,
            }
        }
    return {"requestBody": {"required": True, "content": content}}


def as_bytes(value: Any) -> bytes:
    """Return JSON, in as few bytes as it takes. NaN and inf become null."""
    how: Any = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    try:
        text = json.dumps(value, **how)
    except ValueError:
        text = json.dumps(finite(value), **how)
    return text.encode("utf-8", "replace")
