"""Anomaly maps as pictures."""

import numpy as np

STRENGTH = 0.6  # opacity of the strongest colour


def coloured(image: np.ndarray, heat_HxW: np.ndarray, threshold: float) -> np.ndarray:
    """Return a map over its image, uint8 (H, W, 3): clear at 0, the middle of the colours at the threshold.

    Args:
      image: uint8 (H, W, C), of more than three channels the first three, of fewer the first.
    """
    from matplotlib import colormaps

    share = np.clip(heat_HxW / max(2 * threshold, 1e-12), 0, 1)
    seen = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    alpha = STRENGTH * share[..., None]
    mixed = (1 - alpha) * seen / 255 + alpha * colormaps["inferno"](share)[..., :3]
    return (mixed * 255).round().astype(np.uint8)
