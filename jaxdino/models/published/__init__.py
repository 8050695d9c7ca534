"""The published models as data: names, shapes, preprocessing, Hugging Face repositories."""

from jaxdino.models.published import clip, convnext, heads, resnet, sam, vit

TINY = (clip.TINY, sam.TINY)
"""For models without published weights."""

SPECS = (*vit.SPECS, *clip.SPECS, *convnext.SPECS, *resnet.SPECS, *sam.SPECS, *heads.SPECS)
