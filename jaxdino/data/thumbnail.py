"""Small pictures of images, for pages."""

import io
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.page import data_uri
from jaxdino.data.bands import pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import keeping, open_image

SIDE = 112  # pixels


def thumbnail(record: Any, reading: Reading) -> str:
    """Return an image as a JPEG of at most `SIDE` pixels in a data URI; "" if it cannot be read."""
    try:
        levels = pixels(open_image(record, reading, keeping(SIDE)))
        image = Image.fromarray(levels[..., 0] if levels.shape[-1] < 3 else np.ascontiguousarray(levels[..., :3]))
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
    except Exception:  # whoever reads the images names why one cannot be read
        return ""
    return data_uri(file.getvalue(), ".jpg")
