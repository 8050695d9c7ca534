"""Compare attention with PyTorch's, and attention by head with all scores at once: forward and gradients.

    python -m benchmarks.attention --batch 2 --heads 12 --tokens 1025 --width 64 --cpu-time
    python -m benchmarks.attention --batch 8 --heads 4 --tokens 100 --keys 1344 --width 32 --cpu-time

The first is ViT-B/16 at 512 pixels, the second the cross attention of `head=detr` at 256. The peer is
`torch.nn.functional.scaled_dot_product_attention`. "All at once" is our form for few tokens; `jaxdino.models.attention`
chooses between the two by the number of scores.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness

NEVER = 1 << 60


def ours(name: str, arrays: list[Any], gradients: bool) -> harness.Contender:
    """Return our attention of q, k, v, or its gradients for a cotangent, compiled as the module is set now."""
    import jax

    from jaxdino.models.attention import attention

    def values(q, k, v):
        return attention(q, k, v, "xla")

    def slopes(q, k, v, g):
        return jax.vjp(values, q, k, v)[1](g)

    given = arrays if gradients else arrays[:3]
    run = jax.jit(slopes if gradients else values).lower(*given).compile()
    return harness.Contender(name, lambda: jax.block_until_ready(run(*given)), len(arrays[0]), peer=False)


def theirs(arrays: list[np.ndarray], dtype: str, gradients: bool) -> harness.Contender:
    """Return PyTorch's, of the same arrays."""
    import torch

    q, k, v, g = (torch.tensor(one).to(getattr(torch, dtype)) for one in arrays)
    attend: Callable = torch.nn.functional.scaled_dot_product_attention
    if not gradients:
        return harness.Contender("PyTorch", lambda: attend(q, k, v), len(q))
    given = [one.requires_grad_() for one in (q, k, v)]
    return harness.Contender("PyTorch", lambda: torch.autograd.grad(attend(*given), given, g), len(q))


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__)
    flags.add_argument("--heads", type=int, default=12)
    flags.add_argument("--tokens", type=int, default=1025, help="queries")
    flags.add_argument("--keys", type=int, default=0, help="0: as many as queries")
    flags.add_argument("--width", type=int, default=64, help="of a head")
    args = flags.parse_args()
    harness.begin(args)
    import jax.numpy as jnp

    from jaxdino.models import attention

    rng, counts = np.random.default_rng(0), (args.tokens, args.keys or args.tokens)
    shapes = [(args.batch, args.heads, counts[place], args.width) for place in (0, 1, 1, 0)]
    drawn = [rng.standard_normal(shape, np.float32) for shape in shapes]
    arrays = [jnp.asarray(one, args.dtype) for one in drawn]
    sizes = attention.LEARNED, attention.INFERRED
    for gradients in (False, True):
        attention.LEARNED, attention.INFERRED = sizes
        chosen = ours("jaxdino", arrays, gradients)
        attention.LEARNED = attention.INFERRED = NEVER
        whole = ours("jaxdino, all at once", arrays, gradients)
        both = [chosen, whole, theirs(drawn, args.dtype, gradients)]
        shape = f"batch {args.batch}, {args.heads} heads of {args.width}, {counts[0]} queries, {counts[1]} keys"
        title = f"attention {'forward and gradients' if gradients else 'forward'}, {shape}, {args.dtype}"
        harness.report(title, both, harness.alternate(both, args.rounds))


if __name__ == "__main__":
    main()
