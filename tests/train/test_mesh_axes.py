"""The axes of the mesh: the same losses however weights, batch, heads and hidden channels are divided."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from benchmarks.ours import stage_of, train_step, uint8_batch
from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models.lora import LoRA, add, set_dropout
from jaxdino.models.published.vit import DINOV3
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

ALL_DEVICES = True
DEPTH = 2
CONFIG = ViTConfig(patch_size=8, width=64, depth=DEPTH, num_heads=4, mlp_dim=128, **DINOV3 | {"swiglu": True})
SPEC = ModelSpec("axes", "dinov3", CONFIG, Preprocess(size=(16, 16)))


@functools.cache
def compiled(mesh: tuple[int, int, int]):
    """(step, state, batch) on a mesh of data x fsdp x tensor devices."""
    data, fsdp, tensor = mesh
    devices = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp * tensor], tensor)
    step, state = train_step(SPEC, stage_of("all", clip_norm=1.0), devices)
    batch = sharding.put_batch(uint8_batch(8, 16), devices)
    return step.lower(state["moving"], state["frozen"], batch).compile(), state, batch


@functools.cache
def losses(mesh: tuple[int, int, int]) -> np.ndarray:
    step, state, batch = compiled(mesh)
    moving, found = jax.tree.map(jnp.copy, state["moving"]), []
    for _ in range(3):
        moving, measured = step(moving, state["frozen"], batch)
        found.append([float(measured[name]) for name in ("loss", "grad_norm")])
    return np.array(found)


@pytest.mark.parametrize("mesh", [(1, 1, 4), (1, 2, 2), (2, 2, 1)])  # all: tests/soak
def test_every_mesh_gives_the_losses_of_one_device(mesh):
    np.testing.assert_allclose(losses(mesh), losses((1, 1, 1)), rtol=2e-5)


def collectives(mesh: tuple[int, int, int]) -> dict[str, list[str]]:
    """Kind -> the shapes that each such operation of the compiled step moves, without vectors and numbers."""
    found = {}
    for line in compiled(mesh)[0].as_text().splitlines():
        if called := re.search(r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter)(-start)?\(", line):
            shapes = re.findall(r"\w+\[\d+(?:,\d+)+\]", called[1])
            found.setdefault(called[2], []).extend(shapes)
    return found


def test_a_pair_of_layers_costs_one_sum_each_way():
    """A forward and a backward sum for attention and for the feed-forward layer."""
    assert len(collectives((1, 1, 4))["all-reduce"]) == 4 * DEPTH
    assert not collectives((1, 1, 4)).get("all-gather")  # neither weights nor activations


def test_gradients_are_summed_in_float32_when_the_model_computes_in_bfloat16():
    """Sums over devices are put at the result of a product, before it is rounded. (A CPU computes all in float32.)"""
    devices = sharding.make_mesh(4, 1, jax.devices())
    step, state = train_step(SPEC, stage_of("all"), devices, dtype=jnp.bfloat16)
    batch = sharding.put_batch(uint8_batch(8, 16), devices)
    text = step.lower(state["moving"], state["frozen"], batch).as_text()
    products = re.findall(r"stablehlo\.dot_general.*\(tensor<[\dx]*x(\w+)>, .*-> tensor<[\dx]*x(\w+)>", text)
    assert ("bf16", "f32") in products
    assert {result for _, result in products} == {"f32"}


def test_blocks_are_divided_by_the_rules():
    mesh = sharding.make_mesh(1, 2, jax.devices(), 2)
    specs = {path: sharding.spec_for(path, e.shape, mesh) for path, e in SPEC.skeleton(100).entries.items()}
    block = "backbone.blocks.0."
    assert {specs[block + name] for name in ("attn.proj.kernel", "mlp.w3.kernel")} == {P("tensor", "fsdp")}
    assert {specs[block + name] for name in ("attn.qkv.kernel", "mlp.w12.kernel")} == {P(("tensor", "fsdp"), None)}
    assert sharding.spec_for("blocks.3.mlp.fc1.kernel", (64, 128), mesh) == P("fsdp", "tensor")
    assert sharding.spec_for("blocks.3.mlp.fc1.bias", (128,), mesh) == P("tensor")
    assert tuple(specs["backbone.norm.scale"]) == ()


@pytest.mark.parametrize("spec", [LoRA(rank=4, dropout=0.5), LoRA(rank=4, dora=True, targets=("attn.qkv", "w12"))])
def test_adapters_compute_the_same(spec):
    skeleton, flat = split(add(SPEC.build(10, rngs=nnx.Rngs(0)), CONFIG, spec, nnx.Rngs(1)))
    rng = np.random.default_rng(0)
    flat = {path: np.asarray(x) + 0.1 * rng.standard_normal(x.shape, np.float32) for path, x in flat.items()}
    images = rng.standard_normal((4, 16, 16, 3), np.float32)
    found = []
    for tensor in (1, 4):
        mesh = sharding.make_mesh(1, 1, jax.devices()[:tensor], tensor)

        def forward(flat, images, mesh=mesh):
            with sharding.on(mesh):
                model = bind(skeleton, flat)
                set_dropout(model, jax.random.key(2))
                return model(images).logits

        placed = sharding.put(flat, sharding.shardings(flat, mesh))
        found.append(np.asarray(jax.jit(forward)(placed, sharding.put(images, sharding.replicated(mesh)))))
    np.testing.assert_allclose(found[1], found[0], atol=1e-4 * np.abs(found[0]).max())


def test_heads_and_widths_that_do_not_divide_are_named():
    mesh = sharding.make_mesh(1, 1, jax.devices()[:3], 3)
    with pytest.raises(UserError, match=r"mesh\.tensor=3 does not divide 64 in .*qkv.kernel"):
        sharding.spec_for("backbone.blocks.0.attn.qkv.kernel", (64, 192), mesh)
    skeleton = SPEC.skeleton(10)
    with sharding.on(mesh), pytest.raises(UserError, match=r"mesh\.tensor=3 does not divide 4 attention heads"):
        jax.eval_shape(lambda flat, x: bind(skeleton, flat)(x), skeleton.shapes, jnp.zeros((1, 16, 16, 3)))
