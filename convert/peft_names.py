"""Map our linear layers to the torch modules of a layout, with PEFT's module names."""

import re
from collections import Counter
from pathlib import Path

from convert.head_keys import bound_table
from convert.ops import LINEAR
from convert.tables import layouts
from jaxdino.core.errors import UserError
from jaxdino.core.params import Skeleton
from jaxdino.core.rules import did_you_mean
from jaxdino.models.lora import PARTS
from jaxdino.models.spec import ModelSpec

PUBLISHED = "published"
"""Layout "hf" with the names in its checkpoints, which are also the in-memory names of transformers 4."""
_ATTENTION = (
    (r"attention\.attention\.(q|k|v)(uery|ey|alue)", r"attention.\1_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
)
_VIT = (
    *_ATTENTION,
    (r"encoder\.layer\.", "layers."),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"(\d+)\.output\.dense", r"\1.mlp.fc2"),
)
RENAMED = {
    "dino": _VIT,
    "vit": _VIT,
    "dinov2": (*_ATTENTION, (r"mlp\.weights_out", "mlp.down_proj")),
    "dinov3": ((r"^layer\.", "model.layer."),),
}
"""{family: in-memory module names of layout "hf" in transformers 5}. Source: its conversion_mapping.py."""


def torch_names(spec: ModelSpec, layout: str, head: bool) -> dict[str, tuple[str, ...]]:
    """Return {path of our linear layer: its torch module, or the modules that are fused in it, in order}.

    Args:
      layout: one of the family's, or "published".
      head: whether the model has a classification head.
    """
    known = layouts(spec)
    if layout not in known and not (layout == PUBLISHED and "hf" in known):
        raise UserError(f"there is no {spec.family} layout {layout!r}; {did_you_mean(layout, known)}")
    table, found = bound_table(spec, "hf" if layout == PUBLISHED else layout, spec.linear(int(head))), {}
    for rule in table.rules:
        if rule.op is LINEAR and rule.path.endswith(".kernel") and all(key.endswith(".weight") for key in rule.keys):
            names = tuple(key.removesuffix(".weight") for key in rule.keys)
            found[rule.path.removesuffix(".kernel")] = _in_memory(spec, names) if layout == "hf" else names
    return found


def _in_memory(spec: ModelSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) == 1 and names[0].endswith("mlp.weights_in"):  # DINOv2's, which transformers 5 splits
        return tuple(names[0].replace("weights_in", part) for part in ("gate_proj", "up_proj"))
    for pattern, name in RENAMED.get(spec.family, ()):
        names = tuple(re.sub(pattern, name, old) for old in names)
    return names


def places_of(
    names: list[str], spec: ModelSpec, skeleton: Skeleton, layout: str | None, where: Path
) -> dict[str, tuple[str, str]]:
    """Return {torch module: (our path, part of it or "")}, for the first layout that has all these modules."""
    head, closest = "head.kernel" in skeleton.entries, (len(names) + 1, "")
    known = layouts(spec)
    for one in (layout,) if layout else (*known, *((PUBLISHED,) if "hf" in known else ())):
        ours = {}
        for path, modules in torch_names(spec, one, head).items():
            parts = PARTS[path.rpartition(".")[2]] if len(modules) > 1 else ("",)
            ours |= {module: (path, part) for module, part in zip(modules, parts, strict=True)}
        prefixes = Counter(name[: -len(m)] for name in names for m in ours if f".{name}".endswith(f".{m}"))
        for prefix in dict.fromkeys(["", *sorted(prefixes, key=len)]):
            found = {name: ours.get(name.removeprefix(prefix), ours.get(name)) for name in names}
            gone = [name for name, place in found.items() if place is None]
            if not gone:
                return found
            closest = min(closest, (len(gone), f"{gone[0]} ({did_you_mean(gone[0], ours)})"))
    raise UserError(
        f"{where}: {closest[0]} of the {len(names)} adapted modules are not linear layers of {spec.name}: {closest[1]}"
    )
