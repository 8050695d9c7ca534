"""The published models as data: names, shapes, preprocessing, places on the hub."""

from jaxdino.models.published import clip, convnext, heads, resnet, sam, vit

TINY = (clip.TINY, sam.TINY)
"""Without published weights."""

SPECS = (*vit.SPECS, *clip.SPECS, *convnext.SPECS, *resnet.SPECS, *sam.SPECS, *heads.SPECS)
