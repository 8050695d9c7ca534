"""A module as a skeleton and a flat dict, and back: checked, in natural order, told apart to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.params import Buffer, abstract, bind, digest, natural_key, split


class Layer(nnx.Module):
    """A weight, a bias and a buffer."""

    def __init__(self, n: int):
        self.kernel = nnx.Param(jnp.full((2, 3), float(n)))
        self.bias = nnx.Param(jnp.full((3,), float(n)))
        self.periods = Buffer(jnp.full((1,), float(n)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...][None] + self.periods[...][None]


class Net(nnx.Module):
    """Twelve layers in a list, so that "10" sorts before "2" as text."""

    def __init__(self):
        self.blocks = nnx.List([Layer(n) for n in range(12)])
        self.stats = nnx.BatchStat(jnp.zeros(4))


@pytest.fixture
def parts():
    return split(Net())


def test_natural_order():
    assert sorted(["b.10.x", "b.2.x", "a", "b.2.a"], key=natural_key) == ["a", "b.2.a", "b.2.x", "b.10.x"]


def test_split_names_and_orders(parts):
    skeleton, flat = parts
    kernels = [path for path in flat if path.endswith("kernel")]
    assert kernels == [f"blocks.{n}.kernel" for n in range(12)]
    assert list(flat) == list(skeleton.entries) == skeleton.paths()
    assert skeleton.paths("buffer") == [f"blocks.{n}.periods" for n in range(12)]
    assert skeleton.paths("batch_stat") == ["stats"]
    assert skeleton.num_params == 12 * 9


def test_bind_puts_each_array_in_its_place(parts):
    skeleton, flat = parts
    flat = {path: jnp.full_like(array, n) for n, (path, array) in enumerate(flat.items())}
    again, back = split(bind(skeleton, dict(reversed(flat.items()))))
    assert again.entries == skeleton.entries
    assert all((back[path] == flat[path]).all() for path in flat)


def test_bind_under_jit_and_grad(parts):
    skeleton, flat = parts
    flat = {path: array.astype(jnp.float32) for path, array in flat.items()}

    @jax.jit
    def gradient(flat):
        return jax.grad(lambda flat: bind(skeleton, flat).blocks[10](jnp.ones((1, 2))).sum())(flat)

    used = [path for path, g in gradient(flat).items() if np.abs(g).max() > 0]
    assert used == ["blocks.10.bias", "blocks.10.kernel", "blocks.10.periods"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat.pop("blocks.3.bias"), r"missing blocks\.3\.bias \(3,\) \(nearest: blocks\.\d+\.bias"),
        (lambda flat: flat.update({"blocks.3.bais": 0}), r"unexpected blocks\.3\.bais \(nearest: blocks\.3\.bias"),
        (lambda flat: flat.update({"stats": jnp.zeros(5)}), r"shape of stats: \(5,\) given, \(4,\) wanted"),
        (lambda flat: flat.update({"blocks.3.kernel": jnp.zeros((3, 2))}), r"shape of blocks\.3\.kernel: \(3, 2\)"),
    ],
)
def test_bind_refuses(parts, change, message):
    skeleton, flat = parts
    change(flat)
    with pytest.raises(UserError, match=message):
        bind(skeleton, flat)


def test_a_swap_of_names_is_no_way_around(parts):
    """`nnx.merge` alone would take the same number of leaves under other names."""
    skeleton, flat = parts
    flat = {path.replace("kernel", "weight"): array for path, array in flat.items()}
    with pytest.raises(UserError, match="24 of the parameters do not fit the model"):
        bind(skeleton, flat)


def test_abstract_is_split_without_memory(parts):
    skeleton = abstract(Net)
    assert skeleton.entries == parts[0].entries
    assert list(skeleton.entries) == list(parts[0].entries)
    assert (bind(skeleton, parts[1]).blocks[11].bias[...] == 11).all()


def test_a_variable_of_another_kind_is_refused():
    class Odd(nnx.Module):
        def __init__(self):
            self.cache = nnx.Cache(jnp.zeros(1))

    with pytest.raises(TypeError, match="Cache"):
        split(Odd())


def test_digest_tells_one_bit_a_name_a_shape_and_a_dtype():
    array = np.arange(6, dtype=np.float32)
    first = digest({"a": array, "b": array})
    assert len(first) == 64 and first == digest({"b": array, "a": jnp.asarray(array)})
    flipped = array.copy()
    flipped.view(np.uint8)[-1] ^= 1
    others = [
        {"a": flipped, "b": array},
        {"a": array, "c": array},
        {"a": array.reshape(2, 3), "b": array},
        {"a": array.view(np.int32), "b": array},
        {"a": array},
    ]
    assert len({first, *map(digest, others)}) == 6
