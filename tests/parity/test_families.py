"""What every family and layout must pass: outputs, gradients, bits, other layouts, and a test that can fail.

`pytest tests/parity/test_families.py --record-parity` writes what it measures; see docs/conversion.md.
"""

import copy
import dataclasses
import fnmatch
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert.describe import inspect
from convert.export import export
from convert.head_keys import bound_table
from convert.load import load_pretrained
from convert.readers import open_source
from convert.store import save_model
from convert.tables import FAMILIES, layouts
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.spec import ModelSpec
from tests.parity.all_cases import FAMILY_CASES
from tests.parity.ours import TOLERANCE, assert_same, worst

SIZED = [(name, size) for name, case in FAMILY_CASES.items() for size in case.inputs]
TRIPS = [(name, dtype) for name in FAMILY_CASES for dtype in ("float32", "bfloat16")]
TRIPS += [pytest.param(name, "float16", marks=pytest.mark.soak) for name in FAMILY_CASES]
THOROUGH = [name for name, case in FAMILY_CASES.items() if case.thorough]
GRADIENT_TOLERANCE = 1e-4
VANISHING = 1e-5
"""Below this share of the largest gradient there is only rounding: the keys' bias, which softmax takes away."""
CHANGE = 1e-2


def arrays(given) -> dict[str, np.ndarray]:
    """Inputs as ours takes them: images (B, H, W, C)."""
    found = {name: tensor.numpy() for name, tensor in given.items()}
    return found | {name: np.moveaxis(found[name], 1, -1) for name in ("images",) if name in found}


def shape_of(pretrained) -> tuple:
    """What a program depends on, and so what cases that only name their tensors differently share."""
    card = pretrained.card
    spec = ModelSpec("any", card.spec.family, card.spec.config, heads=card.spec.heads)
    return spec, card.num_classes, card.pool


@functools.cache
def compiled(ours, spec, num_classes: int, pool: str, dtype=jnp.float32):
    skeleton = spec.skeleton(num_classes, pool=pool, dtype=dtype)
    return jax.jit(lambda flat, given: ours(bind(skeleton, flat), given))


def look(name: str, pretrained, given, flat=None, dtype=jnp.float32) -> dict[str, np.ndarray]:
    """Our values at the places that are compared."""
    run = compiled(FAMILY_CASES[name].ours, *shape_of(pretrained), dtype)
    seen = run(pretrained.flat if flat is None else flat, arrays(given))
    return {place: np.asarray(value, np.float32) for place, value in seen.items()}


def reference(it, given) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return it.family.theirs(it.model, given)


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_same_outputs(loaded, record_parity, name, size):
    it = loaded(name)
    given = it.family.inputs[size]
    ours, theirs = look(name, it.ours, given), reference(it, given)
    assert_same(ours, theirs)
    absolute = max(float(np.abs(ours[place] - value.numpy()).max()) for place, value in theirs.items())
    record_parity(it.family, "float32", absolute, max(worst(ours, theirs).values()))


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_half_precision_is_no_worse_than_torch(loaded, record_parity, name):
    """bfloat16, both held against the original in float32."""
    it = loaded(name)
    given = next(iter(it.family.inputs.values()))
    exact = reference(it, given)
    half = copy.deepcopy(it.model).to(torch.bfloat16)
    theirs = it.family.theirs(half, {k: v.bfloat16() if v.is_floating_point() else v for k, v in given.items()})
    flat = {p: v if v.dtype != np.float32 or "rope" in p else v.astype(jnp.bfloat16) for p, v in it.ours.flat.items()}
    ours = look(name, it.ours, given, flat, jnp.bfloat16)
    own = spread(ours, exact)
    torchs = spread({place: value.detach().float().numpy() for place, value in theirs.items()}, exact)
    assert sum(own.values()) <= 1.25 * sum(torchs.values()), (own, torchs)
    absolute = max(float(np.abs(ours[place] - value.numpy()).max()) for place, value in exact.items())
    record_parity(it.family, "bfloat16", absolute, max(worst(ours, exact).values()))


def spread(values: dict[str, np.ndarray], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """{place: root mean square of the difference, as a share of the original's}: less of a lottery than the worst."""
    return {
        place: float(np.sqrt(np.mean((values[place] - value.numpy()) ** 2) / np.mean(value.numpy() ** 2)))
        for place, value in exact.items()
    }


def objective(seen, lib):
    """A scalar to which every place contributes with other weights."""
    return sum((lib.sin(lib.arange(x.size if lib is jnp else x.numel())).reshape(x.shape) * x).sum() for x in seen)


def with_gradients_for_weights(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose parameters hold the gradients, to be saved under the published names; unused ones hold zero."""
    twin = copy.deepcopy(model)
    for parameter, own in zip(twin.parameters(), model.parameters(), strict=True):
        parameter.data = torch.zeros_like(own) if own.grad is None else own.grad.clone()
        own.grad = parameter.grad = None
    return twin


@functools.cache
def compiled_gradient(ours, spec, num_classes: int, pool: str):
    skeleton = spec.skeleton(num_classes, pool=pool)

    def loss(params, others, given):
        seen = ours(bind(skeleton, params | others), given)
        return objective([seen[place] for place in sorted(seen)], jnp)

    return jax.jit(jax.grad(loss)), skeleton.paths("param")


def gradients(name: str, pretrained, given) -> dict[str, np.ndarray]:
    """Gradient of the objective by path; buffers and statistics keep their values."""
    gradient, paths = compiled_gradient(FAMILY_CASES[name].ours, *shape_of(pretrained))
    params = {path: pretrained.flat[path] for path in paths}
    others = {path: array for path, array in pretrained.flat.items() if path not in params}
    return jax.tree.map(np.asarray, gradient(params, others, arrays(given))) | others


@pytest.mark.parametrize("name", THOROUGH)
def test_same_gradients(loaded, record_parity, tmp_path, name):
    it = loaded(name)
    given = list(it.family.inputs.values())[1 % len(it.family.inputs)]
    seen = it.family.theirs(it.model, given)
    objective([seen[place] for place in sorted(seen)], torch).backward()
    path = it.family.save(with_gradients_for_weights(it.model), tmp_path)
    table = bound_table(it.ours.card.spec, it.ours.card.layout, it.ours.card.head)
    ours = {tensor.key: tensor.make() for tensor in table.write(gradients(name, it.ours, given))}
    found = inspect(path, **it.family.overrules)[2]
    with open_source(path) as source:
        theirs = {key: source.read(full) for key, full in found.keys.items() if key in ours}
    assert set(ours) == set(theirs)
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    shares = {}
    for key, gradient in theirs.items():
        scale = np.abs(gradient).max()
        shares[key] = float(np.abs(ours[key] - gradient).max() / (scale if scale > VANISHING * largest else largest))
    assert {key: share for key, share in shares.items() if not share <= GRADIENT_TOLERANCE} == {}
    absolute = max(float(np.abs(ours[key] - gradient).max()) for key, gradient in theirs.items())
    record_parity(it.family, "gradient", absolute, max(shares.values()))


@pytest.mark.parametrize(("name", "dtype"), TRIPS)
def test_same_bits(loaded, record_parity, tmp_path, name, dtype):
    it = loaded(name)
    path = it.family.save(copy.deepcopy(it.model).to(getattr(torch, dtype)), tmp_path)
    card, _, found = inspect(path, **it.family.overrules)
    table = bound_table(card.spec, card.layout, card.head)
    written = {tensor.key: tensor for tensor in table.write(load_pretrained(path, **it.family.overrules).flat)}
    with open_source(path) as source:
        assert set(written) == {key for key in found.keys if not table.why_dropped(key)}
        for key, tensor in written.items():
            original, ours = source.read(found.keys[key]), tensor.make()
            assert (ours.dtype, ours.shape) == (original.dtype, original.shape) == (tensor.dtype, tensor.shape), key
            assert ours.tobytes() == original.tobytes(), key
    record_parity(it.family, "round trip", 0.0, 0.0)


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_other_layouts_give_the_same_outputs(loaded, tmp_path, name):
    it = loaded(name)
    given = next(iter(it.family.inputs.values()))
    before, spec = look(name, it.ours, given), it.ours.card.spec
    if "images" in given:  # layouts that resample positions in their own ways agree at the model's own size alone
        how = dataclasses.replace(spec.preprocess, size=tuple(given["images"].shape[2:]))
        spec = dataclasses.replace(spec, preprocess=how)
    save_model(tmp_path / "ours", dataclasses.replace(it.ours.card, spec=spec), it.ours.flat)
    for layout in layouts(spec):
        if layout in it.family.refused:
            with pytest.raises(UserError, match=layout):
                export(tmp_path / "ours", tmp_path / layout, layout=layout)
            continue
        notes = export(tmp_path / "ours", tmp_path / layout, layout=layout)
        again = load_pretrained(tmp_path / layout)
        assert again.card.layout == layout
        rounded = any("RoPE" in note for note in notes)  # periods in bfloat16 in the source, and export said so
        after = look(name, again, given)
        if any("pooler" in note for note in notes):  # transformers' ViTModel alone has one
            del after["pooled"]
        for place, value in after.items():
            share = np.abs(value - before[place]).max() / np.abs(before[place]).max()
            assert share <= (0.1 if rounded else TOLERANCE), (layout, place)


def parts(path: str, array: np.ndarray) -> dict[str, slice]:
    """Slices of the last axis to change one by one: q, k and v apart, gate and value apart."""
    names = {"qkv": "qkv", "w12": ("gate", "value")}.get(path.split(".")[-2], ("",))
    size = array.shape[-1] // len(names) if array.ndim else 1
    return {f"[{name}]" if name else "": slice(n * size, (n + 1) * size) for n, name in enumerate(names)}


def changed(array: np.ndarray, part: slice) -> np.ndarray:
    """A copy with one element in the middle of the part moved by 1 % of the array's scale."""
    copy = array.copy().reshape(-1, array.shape[-1] if array.ndim else 1)
    copy[len(copy) // 2, (part.start + part.stop) // 2] += CHANGE * np.abs(array).max()
    return copy.reshape(array.shape)


@pytest.mark.parametrize("name", THOROUGH)
def test_every_parameter_shows(loaded, name):
    """The tests above can fail: a small change of any one parameter moves what they compare."""
    it = loaded(name)
    given = next(iter(it.family.inputs.values()))
    before = look(name, it.ours, given)
    silent, expected = [], []
    for path, array in it.ours.flat.items():
        for part, where in parts(path, array).items():
            if np.issubdtype(array.dtype, np.integer):
                continue
            after = look(name, it.ours, given, it.ours.flat | {path: changed(array, where)})
            shares = [np.abs(after[k] - before[k]).max() / np.abs(before[k]).max() for k in before]
            silent += [path + part] if max(shares) <= TOLERANCE else []
            expected += [path + part] if any(map(functools.partial(matches, path + part), it.family.silent)) else []
    assert silent == expected


def matches(path: str, pattern: str) -> bool:
    """fnmatch, with brackets taken as they are."""
    return fnmatch.fnmatchcase(path, pattern.replace("[", "[[]"))


def test_every_layout_of_every_family_has_a_case():
    cases = {(case.family, case.layout) for case in FAMILY_CASES.values()}
    known = {pair for family in FAMILIES for pair in family.layouts}
    same = {("dino", "timm"), ("dino_resnet", "timm"), ("dino_resnet", "hf")}  # keys and forward pass of vit, resnet
    assert known - cases <= same
