"""Self-distillation of masked patches: the student, which does not see them, learns from the teacher, which does.

Source: Zhou et al. 2022, iBOT (arXiv:2111.07832), equation 2; weights per view as in DINOv2 (arXiv:2304.07193).
Targets are computed as for whole images, from the teacher's scores of the masked patches.
"""

import jax
import jax.numpy as jnp

from jaxdino.objectives.dino import cross_entropy


def masked_indices(mask: jax.Array, capacity: int, groups: int = 1) -> tuple[jax.Array, jax.Array]:
    """Return the places of the masked patches, in a static number of slots.

    The images are cut into `groups` equal groups, each with its own slots: with as many groups as devices, no patch
    moves between devices.

    Args:
      mask: (B, G, h, w) bool; nothing should be masked in an image of weight 0.
      capacity: slots per group; patches beyond it are dropped, remaining slots are unused.

    Returns:
      (index, weight), (groups, capacity): int32 places in the group's (B / groups, G, h, w), ascending; 1 / (number of
      masked patches of that view), 0 in unused slots (whose index is 0).
    """
    marked = mask.reshape(groups, -1)
    per_view = jnp.sum(mask, axis=(2, 3), keepdims=True)
    share = jnp.broadcast_to(1 / jnp.maximum(per_view, 1).astype(jnp.float32), mask.shape).reshape(groups, -1)
    so_far = jnp.cumsum(marked, axis=1)
    slots = jnp.arange(1, capacity + 1)
    index = jax.vmap(lambda counts: jnp.searchsorted(counts, slots))(so_far)
    used = slots[None] <= so_far[:, -1:]
    index = jnp.where(used, index, 0).astype(jnp.int32)
    return index, jnp.where(used, jnp.take_along_axis(share, index, axis=1), 0.0)


def take(patches: jax.Array, index: jax.Array) -> jax.Array:
    """Select the patches at `masked_indices`: (B, G, h, w, D), (groups, capacity) -> (groups, capacity, D)."""
    grouped = patches.reshape(index.shape[0], -1, patches.shape[-1])
    return jnp.take_along_axis(grouped, index[:, :, None], axis=1)


def ibot_loss(
    student: jax.Array,
    teacher: jax.Array,
    weight: jax.Array,
    views: jax.Array | float,
    temperature: jax.Array | float = 0.1,
) -> jax.Array:
    """Compute the cross entropy at masked patches: the mean within a view, then over all views, masked or not.

    Args:
      student: (..., K) scores.
      teacher: (..., K) probabilities; no gradient flows to them.
      weight: (...) as returned by `masked_indices`.
      views: number of views that count: the sum of the images' weights, times G.

    Returns:
      A scalar in float32; 0 if nothing is masked.
    """
    weight = weight.astype(jnp.float32)
    losses = cross_entropy(student, teacher.astype(jnp.float32), temperature)
    return jnp.sum(losses * weight) / jnp.maximum(views, 1e-12)
