"""Adapters on the parts of CLIP-DINO-SAM, what gradients reach, and what frozen parts cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models import lora
from jaxdino.models.lora import LoRA
from jaxdino.objectives.masks import alignment_loss, bce_loss, dice_loss, iou_loss, pooled, upsampled
from tests.models.test_clipdinosam import ADAPTED, IDS, images, look
from tests.models.tiny_clipdinosam import spec_of, start

PROMPT, ONES = np.array([0, 2]), np.ones(2, np.float32)
PROJECTIONS = ("backbone.token_projection.", "backbone.token_to_mask.")


def moved(flat, paths):
    rng = np.random.default_rng(1)
    return flat | {path: flat[path] + rng.normal(0, 0.2, flat[path].shape).astype(np.float32) for path in paths}


def largest(ours, others):
    """Largest difference as a share of the largest value."""
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(ours, others, strict=True))


def test_built_with_adapters_it_computes_what_it_did_without():
    adapted, plain = spec_of(**ADAPTED), spec_of()
    ours, theirs = (split(spec.build())[1] for spec in (adapted, plain))
    assert set(ours) - set(lora.leaves(ours)) == set(theirs)
    assert all(np.array_equal(ours[path], theirs[path]) for path in theirs)
    assert all(bool((ours[path] == 0).all()) == path.endswith(".b") for path in lora.leaves(ours))
    for with_adapters, without in zip(look(adapted, ours), look(plain, theirs), strict=True):
        np.testing.assert_allclose(with_adapters, without, rtol=0, atol=2e-6)
    text = look(plain, theirs)[1][0]
    assert float(jnp.triu(text @ text.T, 1).max()) < 0.95  # a random text tower tells texts apart


def test_merged_gives_the_same():
    spec = spec_of(**ADAPTED)
    skeleton, flat = start(spec)
    flat = moved(flat, lora.leaves(flat))
    whole = jax.jit(lambda flat: lora.merged(skeleton, flat))(flat)
    assert spec.config.bare() == spec_of().config and lora.bare(skeleton).entries == spec_of().skeleton().entries
    ours = look(spec, flat)
    assert largest(ours, look(spec_of(), whole)) < 1e-5
    assert (
        min(float(jnp.abs(a - b).max()) for a, b in zip(ours, look(spec_of(), start(spec_of())[1]), strict=True)) > 0.01
    )


def test_targets_and_blocks_are_each_parts_own():
    paths = {path.partition(".lora.")[0] for path in lora.leaves(spec_of(**ADAPTED).skeleton().entries)}
    of = {part: {p for p in paths if p.startswith(f"backbone.{part}.")} for part in ("dino", "clip", "sam")}
    assert of["dino"] == {"backbone.dino.blocks.1.attn.qkv"}
    assert of["clip"] == {f"backbone.clip.text.blocks.1.mlp.fc{i}" for i in (1, 2)}
    assert paths == of["dino"] | of["clip"] | of["sam"]
    decoder = {path.removeprefix("backbone.sam.mask_decoder.").split(".")[0] for path in of["sam"]}
    assert decoder == {"transformer", "output_hypernetworks_mlps", "iou_prediction_head"}
    last = spec_of(decoder_lora=LoRA(targets=("@attn", "@mlp"), last_blocks=1)).skeleton()
    assert all(".transformer.layers.1." in path for path in lora.leaves(last.entries))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(dino_lora=LoRA(targets=("q_proj",))), "names no linear layer of the model; nearest: "),
        (dict(decoder_lora=LoRA(targets=("qkv",))), "names no linear layer of the model; nearest: "),
        (dict(clip_lora=LoRA(targets=("lin1",))), "names no linear layer of the model; nearest: "),
        (dict(decoder_lora=LoRA(targets=("q",), last_blocks=3)), "last_blocks=3: the model has 2"),
        (dict(dino_lora=LoRA(last_blocks=4)), "last_blocks=4: the model has 2"),
        (dict(decoder_lora=LoRA(targets=("iou_prediction_head.*",), last_blocks=1)), "none of the last 1 block"),
    ],
)
def test_targets_that_a_part_does_not_have(fields, said):
    with pytest.raises(UserError, match=said):
        spec_of(**fields).skeleton()


def aligned(net):
    return alignment_loss(pooled(net.tokens(images())), net.encode_text(IDS)[PROMPT], jnp.asarray(PROMPT), ONES)


def masked(net):
    tokens, text = net.tokens(images()), net.encode_text(IDS)[PROMPT]
    low, iou = net.masks(tokens, text[:, None])
    logits, mask = upsampled(low[:, 0, 0], (32, 32)), (images()[..., 0] > 0).astype(jnp.uint8)
    terms = dice_loss(logits, mask, ONES) + bce_loss(logits, mask, ONES)
    return terms + iou_loss(iou[:, 0, 0], logits, mask, ONES)


@functools.lru_cache(None)
def gradient(loss, spec, paths):
    """The compiled gradient with respect to the leaves of these paths, and what it is called with."""
    skeleton, flat = start(spec)
    flat = moved(flat, lora.leaves(flat))
    trained = {path: flat[path] for path in paths}
    frozen = {path: a for path, a in flat.items() if path not in trained}
    step = jax.jit(jax.grad(lambda trained, frozen: loss(bind(skeleton, frozen | trained).backbone)))
    return step.lower(trained, frozen).compile(), (trained, frozen)


def leaves_of(spec, *prefixes):
    params = spec.skeleton().paths("param")
    return tuple(path for path in params if path.startswith(prefixes) or ("lora" in prefixes and ".lora." in path))


def flowing(loss, spec):
    """The paths whose gradient is not zero everywhere, of all parameters, and those whose gradient is."""
    step, given = gradient(loss, spec, leaves_of(spec, "backbone."))
    moved = {path: bool((grad != 0).any()) for path, grad in step(*given).items()}
    return {path for path in moved if moved[path]}, {path for path in moved if not moved[path]}


def test_alignment_reaches_the_projection_and_all_of_dino():
    spec = spec_of(**ADAPTED)
    moved, still = flowing(aligned, spec)
    dino = set(leaves_of(spec, "backbone.dino."))
    assert moved > {*leaves_of(spec, PROJECTIONS[0]), *dino} - {"backbone.dino.mask_token"}
    assert any(".lora." in path for path in dino)
    assert still > {*leaves_of(spec, PROJECTIONS[1], "backbone.sam.")}
    assert not still & set(leaves_of(spec, "backbone.clip.text."))  # CLIP could learn, were it not frozen


def test_a_gradient_of_some_leaves_has_no_others():
    spec, some = spec_of(**ADAPTED), leaves_of(spec_of(**ADAPTED), *PROJECTIONS, "lora")
    step, given = gradient(masked, spec, some)
    grads = step(*given)
    assert tuple(grads) == some and not any("clip" in path and ".lora." not in path for path in grads)
    still = {path for path, grad in grads.items() if not (grad != 0).any()}
    asked = "backbone.sam.mask_decoder.output_hypernetworks_mlps.0."
    assert all("output_hypernetworks_mlps" in path and not path.startswith(asked) for path in still)


def test_frozen_parts_cost_no_backward_pass():
    """With projections and the decoder's adapters alone, DINO and CLIP cost their forward pass."""
    spec = spec_of(decoder_lora=LoRA(rank=2, targets=("@attn", "@mlp")))
    skeleton, flat = start(spec)

    def flops(call):
        return jax.jit(call).lower(flat).compile().cost_analysis()["flops"]

    def encoders(flat):
        net = bind(skeleton, flat).backbone
        return net.dino(images()).patches, net.encode_text(IDS)

    once, whole = flops(encoders), flops(lambda flat: masked(bind(skeleton, flat).backbone))
    few, every = (
        gradient(masked, spec, leaves_of(spec, *prefixes))[0].cost_analysis()["flops"]
        for prefixes in ((*PROJECTIONS, "lora"), ("backbone.",))
    )
    print(f"encoders {once:.4g}, forward {whole:.4g}, few {few:.4g}, every {every:.4g}")
    assert every - few > 1.8 * once  # a backward pass is two forward ones, less what the input would need
    assert few < once + 3 * (whole - once)  # and the decoder's frozen kernels get no gradient either
