"""The fixed list of names that a PyTorch checkpoint may use, each with a harmless stand-in.

No entry is the real class or function: a call builds a description (a tensor is a storage, an offset, a shape and
strides). A name without an entry is refused before anything is built.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from convert.byte_ranges import extent
from convert.dtypes import BY_TORCH, STORAGES
from jaxdino.core.errors import UserError

MAX_AXES = 64
MAX_NAME = 256
NUMPY_CODE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c(8|16)|[SU]\d{1,6}|\?)")


@dataclass(frozen=True)
class Callee:
    """A name that a pickle may call or refer to; `call` is our own function."""

    name: str
    call: Callable = field(repr=False)


class Standin:
    """An object that a pickle may fill after creating it."""

    def set_state(self, state: object) -> None:
        raise NotImplementedError


class StateDict(dict, Standin):
    """collections.OrderedDict; the attributes of a state dict (`_metadata`) are ignored."""

    def set_state(self, state: object) -> None:
        return None


class Record(dict, Standin):
    """argparse.Namespace as a plain dictionary of its attributes."""

    def set_state(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise TypeError("the names of a Namespace's attributes are not text")
        self.update(state)


class NumpyType(Standin):
    """numpy.dtype of numbers, booleans or text."""

    def __init__(self, code: str, *_):
        if not isinstance(code, str) or not NUMPY_CODE.fullmatch(code):
            raise ValueError(f"numpy dtype {code if isinstance(code, str) else type(code)} is not a number or text")
        self.value = np.dtype(code)

    def set_state(self, state: object) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("unknown numpy byte order")
        self.value = self.value.newbyteorder(order)


class NumpyArray(Standin):
    """numpy.ndarray whose shape and bytes come from its state."""

    def __init__(self, *_):
        self.value = np.empty(0)

    def set_state(self, state: object) -> None:
        _, shape, kind, column_major, raw = state
        if not isinstance(raw, bytes) or not isinstance(kind, NumpyType):
            raise TypeError("a numpy array needs bytes and a dtype")
        flat = np.frombuffer(raw, kind.value)
        self.value = flat.reshape(_sizes(shape), order="F" if column_major else "C")


@dataclass(frozen=True)
class StorageType:
    """torch.FloatStorage and similar classes; `dtype` is None for untyped bytes."""

    name: str
    dtype: np.dtype | None


@dataclass(frozen=True)
class Storage:
    """`count` elements (bytes if `dtype` is None) of the stored block `key`, starting at element `skip`."""

    key: str
    dtype: np.dtype | None
    count: int
    skip: int = 0

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype is None else self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: offset and stride in elements of `dtype`."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def find_name(module: str, name: str, where: str) -> object:
    """Return the stand-in for `module.name`. Raise UserError for a name that is not on the list."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    full = f"{module}.{name}"[:MAX_NAME]
    if full not in NAMES:
        raise UserError(
            f"{where}: the pickle refers to {full}, which is not one of the tensors, containers and numbers "
            f"that are read without running code. If you trust the file, load it with torch and save only "
            f"the weights: torch.save(model.state_dict(), 'weights.pth')"
        )
    return NAMES[full]


def _sizes(value: object) -> tuple[int, ...]:
    flat = isinstance(value, (tuple, list)) and len(value) <= MAX_AXES
    if not flat or not all(type(n) is int and 0 <= n < 2**63 for n in value):
        raise ValueError("a shape or stride is not a short list of sizes")
    return tuple(value)


def _tensor(storage, offset, shape, stride, dtype=None) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    dtype = storage.dtype if dtype is None else dtype
    (offset,), shape, stride = _sizes([offset]), _sizes(shape), _sizes(stride)
    if not isinstance(dtype, np.dtype) or len(shape) != len(stride):
        raise ValueError(f"a tensor has no number type, or shape {shape} with stride {stride}")
    room = storage.count * storage.itemsize // dtype.itemsize
    if offset + extent(shape, stride) > room:
        view = f"shape {shape}, stride {stride}, offset {offset}"
        raise ValueError(f"a tensor ({view}) exceeds its storage of {room} elements")
    return Tensor(storage, dtype, offset, shape, stride)


def _tensor_v2(storage, offset, shape, stride, grad=False, hooks=None, flags=None) -> Tensor:
    if flags:
        raise ValueError("a tensor is stored conjugated or negated: save it after .resolve_conj().resolve_neg()")
    return _tensor(storage, offset, shape, stride)


def _tensor_v3(storage, offset, shape, stride, grad, hooks, dtype, flags=None) -> Tensor:
    return _tensor(storage, offset, shape, stride, dtype)


def _parameter(data, *_) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter without a tensor")
    return data


def _pairs(kind: type) -> Callable:
    def build(pairs=()):
        if isinstance(pairs, dict):
            return kind(pairs)
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise TypeError("a dictionary's entries are not pairs")
        if not all(isinstance(pair[0], (str, int)) for pair in pairs):
            raise TypeError("a dictionary's keys are not text or integers")
        return kind(pairs)

    return build


def _set(kind: type) -> Callable:
    def build(items=()):
        if not all(isinstance(item, (str, bytes, int, float, type(None))) for item in items):
            raise TypeError("a set holds more than plain values")
        return kind(items)

    return build


def _same(kind: type) -> Callable:
    def build(*args):
        if args and (len(args) > 1 or type(args[0]) is not kind):
            raise TypeError(f"{kind.__name__}() is called with other arguments")
        return args[0] if args else kind()

    return build


def _complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("_codecs.encode is only known for text in latin1")
    return text.encode("latin1")


def _numpy_scalar(kind: NumpyType, raw: bytes):
    if not isinstance(kind, NumpyType) or not isinstance(raw, bytes) or len(raw) != kind.value.itemsize:
        raise TypeError("a numpy number needs a dtype and the matching number of bytes")
    return np.frombuffer(raw, kind.value)[0]


def _factory_dict(factory=None, *rest) -> dict:
    return _pairs(dict)(*rest)


def _never(*_):
    raise TypeError("it calls a class that may only be referred to")


CALLS: dict[str, Callable] = {
    "collections.OrderedDict": _pairs(StateDict),
    "collections.Counter": _pairs(dict),
    "collections.defaultdict": _factory_dict,
    "argparse.Namespace": lambda: Record(),
    "torch.Size": lambda sizes=(): _sizes(sizes),
    "torch.device": lambda *parts: ":".join(str(part) for part in parts if isinstance(part, (str, int))),
    "torch._utils._rebuild_tensor": lambda *args: _tensor(*args),
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "numpy.dtype": NumpyType,
    "numpy.ndarray": _never,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": NumpyArray,
    "numpy._core.multiarray._reconstruct": NumpyArray,
    "_codecs.encode": _encode,
    "builtins.complex": _complex,
    "builtins.set": _set(set),
    "builtins.frozenset": _set(frozenset),
    **{f"builtins.{k.__name__}": _same(k) for k in (bool, int, float, str, bytes, list, tuple, dict)},
}

NAMES: dict[str, object] = {
    **{name: Callee(name, call) for name, call in CALLS.items()},
    **{f"torch.{name}": dtype for name, dtype in BY_TORCH.items()},
    **{f"torch.{name}": StorageType(name, BY_TORCH[kind]) for name, kind in STORAGES.items()},
    **{f"torch.cuda.{name}": StorageType(name, BY_TORCH[kind]) for name, kind in STORAGES.items()},
    "torch.storage.UntypedStorage": StorageType("UntypedStorage", None),
    "torch.storage.TypedStorage": StorageType("TypedStorage", None),
}
