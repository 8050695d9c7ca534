"""The simple feature pyramid of a plain vision transformer: four maps from the one that its last block gives.

Source: Li et al. 2022 (arXiv:2203.16527), ViTDet, section 3; facebookresearch/detectron2
detectron2/modeling/backbone/vit.py (SimpleFeaturePyramid), scale factors 4, 2, 1 and 1/2, without the convolutions
that follow.
"""

import jax
from flax import nnx

from jaxdino.models.heads.maps import Enlarge
from jaxdino.models.layers import LayerNorm
from jaxdino.models.max_pool import halved


class SimplePyramid(nnx.Module):
    """One map (B, h, w, D) -> maps at 4, 2, 1 and 1/2 times its resolution, of `widths` channels.

    Args:
      fine: whether there is a map at 4 times the resolution.
    """

    def __init__(self, width: int, rngs: nnx.Rngs, *, fine: bool = True):
        half, quarter = width // 2, width // 4
        self.widths = [half, width, width]
        if fine:
            self.deconv4 = nnx.List([Enlarge(width, half, 2, rngs), Enlarge(half, quarter, 2, rngs)])
            self.norm4 = LayerNorm(half, 1e-6)
            self.widths = [quarter, *self.widths]
        self.deconv2 = Enlarge(width, half, 2, rngs)
        self.fine = fine

    def __call__(self, x_BxhxwxD: jax.Array) -> list[jax.Array]:
        """Return the maps, the finest first; a side that is odd is halved to the next larger number."""
        found = [self.deconv2(x_BxhxwxD), x_BxhxwxD, halved(x_BxhxwxD)]
        if not self.fine:
            return found
        fine = jax.nn.gelu(self.norm4(self.deconv4[0](x_BxhxwxD)), approximate=False)
        return [self.deconv4[1](fine), *found]
