"""Contenders: a part of a network of ours, and the PyTorch module with the same weights; forward and a training step.

The training step is forward, backward and AdamW; its loss is the mean square of all outputs, so that it measures the
module and not a loss.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import Contender

RATE = 1e-4
OUTPUTS = ("class_queries_logits", "masks_queries_logits", "image_embeds", "text_embeds")
"""What is read of an output of transformers, or else its last hidden state; of other modules all."""


def contenders(made: tuple[Callable, dict, Any, Any], batch: int) -> dict[str, list[Contender]]:
    """Return what is timed: a forward pass, and a training step.

    Args:
      made: our forward of {path: array}, these arrays, the peer with the same weights, and what the peer takes.
    """
    import jax
    import jax.numpy as jnp
    import optax
    import torch

    forward, flat, module, given = made
    run, tx = jax.jit(forward), optax.adamw(RATE)
    learned = {path: jnp.array(x) for path, x in flat.items() if not path.endswith((".mean", ".var", "_tracked"))}
    statistics = {path: array for path, array in flat.items() if path not in learned}

    @functools.partial(jax.jit, donate_argnums=(0, 1))  # as the training loop does
    def step(flat: dict, moments: Any) -> tuple[dict, Any]:
        loss = lambda one: sum(jnp.square(x).mean() for x in forward(one | statistics))  # noqa: E731
        updates, moments = tx.update(jax.grad(loss)(flat), moments, flat)
        return optax.apply_updates(flat, updates), moments

    state = [(learned, tx.init(learned))]

    def train() -> None:
        state[0] = jax.block_until_ready(step(*state[0]))

    def outputs() -> Sequence[Any]:
        found = module(given)
        if isinstance(found, torch.Tensor):
            return (found,)
        if isinstance(found, tuple):
            return found
        return [found[name] for name in OUTPUTS if name in found] or [found["last_hidden_state"]]

    def peer_forward() -> None:
        with torch.inference_mode():
            outputs()

    module.eval()  # batch norm with its running statistics, on both sides
    adam = torch.optim.AdamW(module.parameters(), lr=RATE, fused=True)

    def peer_train() -> None:
        adam.zero_grad()
        sum(x.square().mean() for x in outputs()).backward()
        adam.step()

    return {
        "forward": [
            Contender("jaxdino", lambda: jax.block_until_ready(run(flat)), batch, peer=False),
            Contender("PyTorch", peer_forward, batch),
        ],
        "training step": [Contender("jaxdino", train, batch, peer=False), Contender("PyTorch", peer_train, batch)],
    }
