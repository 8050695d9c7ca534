"""Read the tensors of a TorchScript archive (torch.jit.save) without running or unpacking its program.

The archive's data.pkl holds the model as nested objects of classes named `__torch__....`, whose code is in `code/`.
Here each object is a dictionary of its attributes, so a parameter's key equals its key in `state_dict()`.
Sources of the format: pytorch/pytorch torch/csrc/jit/serialization/{pickler,export_module}.cpp, torch/jit/_pickle.py.
"""

from convert.torch_names import MAX_NAME, Callee, Standin, find_name
from jaxdino.core.errors import UserError

CODE = "code/"
"""Records under this name are the program: never read, and the only ones that may be compressed."""


class ScriptObject(dict, Standin):
    """An object of a class that the archive's program defines, as a dictionary of its attributes."""

    def __init__(self, name: str):
        self.name = name

    def set_state(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise TypeError(f"a {self.name} has a custom state (quantised?), which is not supported")
        self.update(state)


def is_program(names) -> bool:
    """Return whether these record names (the archive's root removed) are those of a TorchScript archive."""
    return any(name == "constants.pkl" or name.startswith(CODE) for name in names)


def find_script_name(module: str, name: str, where: str) -> object:
    """Like `find_name`, but also accept the classes of the archive's program and TorchScript's typed lists."""
    full = f"{module}.{name}"[:MAX_NAME]
    if module == "__torch__" or module.startswith("__torch__."):
        return Callee(full, lambda: ScriptObject(full))
    if module == "torch.jit._pickle" and name in CALLS:
        return Callee(full, CALLS[name])
    return find_name(module, name, where)


def unwrap(tree: object, where: str) -> dict:
    """Return the model's attributes.

    Raises:
      UserError: if the archive does not hold a model.
    """
    if not isinstance(tree, ScriptObject):
        raise UserError(f"{where}: a TorchScript archive of a {type(tree).__name__}, not of a model")
    return tree


def _list(items: object) -> list:
    if not isinstance(items, list):
        raise TypeError("a typed list is not built from a list")
    return items


def _tagged(value: object, tag: object) -> object:
    if not isinstance(tag, str):
        raise TypeError("the type of a container is not text")
    return value


CALLS = {
    **{f"build_{kind}list": _list for kind in ("int", "double", "bool", "tensor")},
    "restore_type_tag": _tagged,
}
"""Calls of torch/jit/_pickle.py, which only name the type of their argument."""
