"""What is frozen costs no backward pass: compiled FLOPs of the library's own training step.

They do not depend on the machine. The model is unrolled, since the count takes the body of a loop once.
"""

import functools

import jax
import optax
import pytest

from benchmarks.ours import NUM_CLASSES, stage_of, train_step, uint8_batch
from jaxdino.core import sharding
from jaxdino.core.params import bind, split
from jaxdino.data.photometric import normalize
from jaxdino.models.published.vit import DINOV3
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig
from jaxdino.objectives.classify import Classify
from jaxdino.strategy import resolve

SIZE, PATCH, BATCH, WIDTH, DEPTH, MLP = 64, 8, 32, 256, 6, 1024
TOKENS = (SIZE // PATCH) ** 2 + 1 + DINOV3["num_registers"]
LIMIT = 1.02  # over theory
SPEC = ModelSpec(
    "flops",
    "dinov3",
    ViTConfig(patch_size=PATCH, width=WIDTH, depth=DEPTH, num_heads=4, mlp_dim=MLP, **DINOV3),
    Preprocess(size=(SIZE, SIZE)),
)


def flops(compiled: jax.stages.Compiled) -> float:
    """Floating-point operations of a compiled program, transcendental functions left out."""
    return compiled.cost_analysis()["flops"]


def block_matmuls() -> int:
    """FLOPs of one block's matmuls, forward: qkv, proj, fc1 and fc2, then q k^T and its product with v."""
    return BATCH * (2 * TOKENS * WIDTH * (4 * WIDTH + 2 * MLP) + 2 * 2 * TOKENS**2 * WIDTH)


def all_matmuls() -> int:
    """FLOPs of all matmuls, forward: the patch embedding, the blocks, the head."""
    patches = 2 * (SIZE // PATCH) ** 2 * (3 * PATCH**2) * WIDTH
    return BATCH * (patches + 2 * WIDTH * NUM_CLASSES) + DEPTH * block_matmuls()


def theory(blocks: int, forward: float) -> float:
    """FLOPs of a step that trains the head and the last `blocks` blocks.

    A matmul's backward pass is two of its size, one for its input and one for its weights (or the other factor).
    The lowest trained block needs both, as its first norm is trained as well. Whatever lies below costs nothing.
    Element-wise work is taken to grow as the matmuls do: hence the share of the counted forward pass.
    """
    return forward * (1 + 2 * blocks * block_matmuls() / all_matmuls())


@functools.cache
def batch() -> dict[str, jax.Array]:
    """One batch, on one device."""
    return jax.device_put(uint8_batch(BATCH, SIZE), jax.devices()[0])


@functools.cache
def forward_pass() -> jax.stages.Compiled:
    """Uint8 images to logits."""
    skeleton, flat = split(SPEC.build(NUM_CLASSES))

    def forward(flat, images):
        return bind(skeleton, flat)(normalize(images, SPEC.preprocess.mean, SPEC.preprocess.std)).logits

    return jax.jit(forward).lower(flat, batch()["image"]).compile()


def forward_flops() -> float:
    return flops(forward_pass())


@functools.cache
def compiled_step(trainable: str, accumulate: int = 1, **build) -> jax.stages.Compiled:
    """The library's step with gradient clipping, which reads every gradient there is."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    step, state = train_step(SPEC, stage_of(trainable, clip_norm=1.0, accumulate=accumulate), mesh, **build)
    return step.lower(state["moving"], state["frozen"], batch()).compile()


def step_flops(trainable: str, **build) -> float:
    return flops(compiled_step(trainable, **build))


def held(compiled: jax.stages.Compiled) -> int:
    """Bytes of a program's arguments and intermediate arrays."""
    found = compiled.memory_analysis()
    return found.argument_size_in_bytes + found.temp_size_in_bytes


def temporary(trainable: str, **build) -> int:
    """Bytes of the step's intermediate arrays."""
    return compiled_step(trainable, **build).memory_analysis().temp_size_in_bytes


def careless_flops(trainable: str) -> float:
    """Of a step that differentiates everything, clips by the norm of all gradients, and then moves a few."""
    skeleton, flat = split(SPEC.build(NUM_CLASSES))
    trained = resolve(SPEC, skeleton, stage_of(trainable)).trainable

    def step(flat, batch):
        image = normalize(batch["image"], SPEC.preprocess.mean, SPEC.preprocess.std)

        def loss(params):
            return Classify().loss(bind(skeleton, flat | params), batch | {"image": image}, None)[0]

        params = {path: flat[path] for path in skeleton.paths("param")}
        grads = jax.grad(loss)(params)
        scale = 1 / jax.numpy.maximum(optax.tree.norm(grads), 1.0)
        return {path: flat[path] - 0.1 * scale * grads[path] for path in trained}

    return flops(jax.jit(step).lower(flat, batch()).compile())


def test_head_only_costs_a_forward_pass():
    assert step_flops("head") <= LIMIT * forward_flops()


def test_last_blocks_cost_their_backward_pass():
    assert step_flops("last4") <= LIMIT * theory(4, forward_flops())


@pytest.mark.parametrize(("trainable", "blocks"), [("head", 0), ("last4", 4)])
def test_the_limit_sees_a_step_that_differentiates_everything(trainable, blocks):
    assert careless_flops(trainable) > LIMIT * theory(blocks, forward_flops())


def test_the_theory_fits_a_full_step():
    assert step_flops("all") == pytest.approx(theory(DEPTH, forward_flops()), rel=0.05)


@pytest.mark.parametrize(("trainable", "how"), [("head", {}), ("lora", dict(accumulate=8, remat=True))])
def test_few_trained_parameters_need_the_memory_of_a_forward_pass(trainable, how):
    """With adapters, if the blocks are computed again and the batch is taken in slices."""
    assert held(compiled_step(trainable, **how)) <= 1.1 * held(forward_pass())
    assert held(compiled_step("lora")) > 3 * held(forward_pass())  # all activations of the batch


def test_remat_repeats_the_blocks_and_keeps_less():
    """XLA for a CPU would merge the repeated forward pass with the first one, unless it is told not to."""
    extra = step_flops("all", remat=True) - step_flops("all")
    assert extra == pytest.approx(forward_flops() * DEPTH * block_matmuls() / all_matmuls(), rel=0.05)
    kept, repeated = (temporary("all", remat=remat) for remat in (False, True))
    assert repeated < kept / 3


def test_remat_of_dots_repeats_no_products_with_weights_and_keeps_less():
    """What it repeats: the two products of attention, layer norms and GELU."""
    extra = step_flops("all", remat="dots") - step_flops("all")
    assert 0 < extra < 0.25 * (step_flops("all", remat=True) - step_flops("all"))
    assert temporary("all", remat=True) < temporary("all", remat="dots") < 0.8 * temporary("all")
