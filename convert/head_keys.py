"""Find heads in a checkpoint: linear classification heads, and linear segmentation heads on patches."""

import re
from collections.abc import Iterable

from convert.family import Shapes
from convert.table import BoundTable, Rule
from convert.tables import depth, layouts, own_heads
from convert.tables.patches import MODULES, TABLES, naming_of
from jaxdino.core.errors import UserError
from jaxdino.models.heads import NO_HEAD, HeadConfig
from jaxdino.models.heads.decoders import DPTHeadConfig
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.heads.maps import BLOCKS
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.spec import ModelSpec

LINEAR_HEAD = re.compile(r"(module\.|model\.|state_dict\.)*linear_head\.(weight|bias)")
OWN = "own"
"""The naming of our own heads, `tables.own_heads`."""
ALONE = r"(linear_head|head|head\.fc|fc|classifier|classifier\.1)\.(weight|bias)"
"""Keys of a file with only a classification head."""

Keys = dict[str, str]
"""{key of the layout: key in the file}."""


def keys_of(rules: Iterable[Rule]) -> list[str]:
    """Return the keys of a head, the weight first."""
    return [key for rule in rules for key in rule.keys if key]


def rules_of(spec: ModelSpec, layout: str, head: HeadConfig, naming: str = "") -> tuple[Rule, ...]:
    """Return the rules of a head on a model; () without one.

    Args:
      naming: of a segmentation head, a key of `patches.TABLES`; by default that in which it is written.

    Raises:
      UserError: for a head that has no names in PyTorch.
    """
    if not head.num_classes:
        return ()
    if isinstance(head, PatchesHeadConfig):
        return TABLES[naming or naming_of(spec)]
    if isinstance(head, DepthLinearHeadConfig):
        return depth.LINEAR_DEPTH
    if isinstance(head, DepthDPTHeadConfig | DPTHeadConfig):
        make = depth.dpt_depth if isinstance(head, DepthDPTHeadConfig) else depth.dpt_classes
        return make(head.readout, head.source == BLOCKS)
    if isinstance(head, LinearHeadConfig):
        return layouts(spec)[layout].head
    if isinstance(head, own_heads.HEADS):
        return own_heads.rules(head, spec)
    raise UserError(f"the head {head.name!r} has no names in PyTorch: convert the backbone alone, with drop_head=True")


def bound_table(spec: ModelSpec, layout: str, head: HeadConfig = NO_HEAD, naming: str = "") -> BoundTable:
    """Return the table of a family, a layout and a head, bound to one model; see `rules_of`."""
    return BoundTable(layouts(spec)[layout].table + rules_of(spec, layout, head, naming), spec.config)


def with_linear_head(head: list[str], keys: Keys, aside: list[str]) -> tuple[Keys, list[str]]:
    """Rename a head called `linear_head`, as in DINOv2's and DINOv3's files, to the layout's names.

    Args:
      head: the layout's names. keys, aside: the keys of the network, and the others in the file.

    Raises:
      UserError: if there is another head.
    """
    found = {key.rpartition(".")[2]: key for key in (*keys.values(), *aside) if LINEAR_HEAD.fullmatch(key)}
    if not found or not head:
        return keys, aside
    if twice := sorted(set(head) & set(keys)):
        raise UserError(_two(twice[0], found[twice[0].rpartition(".")[2]]))
    return _moved({name: found[leaf] for name in head if (leaf := name.rpartition(".")[2]) in found}, keys, aside)


def with_segmentation_head(head: list[str], keys: Keys, aside: list[str]) -> tuple[str, Keys, list[str]]:
    """Find a segmentation head among the keys of a file: its naming, "" without one, then as `with_linear_head`.

    Raises:
      UserError: if there is a classification head too.
    """
    naming, own = segmentation_head((*keys.values(), *aside))
    if naming and (twice := [key for key in head if key in keys]):
        raise UserError(_two(twice[0], next(iter(own.values()))))
    return naming, *(_moved(own, keys, aside) if naming else (keys, aside))


def segmentation_head(keys: Iterable[str]) -> tuple[str, Keys]:
    """Return the naming and the keys of the head of patches, boxes or masks in `keys`; "" and {} without one.

    A decoder of several layers, under the same prefix, is not one. The keys of our own heads are those of our export.
    """
    keys = list(keys)
    if own := [key for key in keys if key.startswith(own_heads.PREFIX)]:
        return OWN, {key: key for key in own}
    for naming, rules in TABLES.items():
        names, module = keys_of(rules), MODULES[naming]
        for prefix in [key.removesuffix(names[0]) for key in keys if key.endswith(names[0])]:
            inside = {key for key in keys if key.startswith(prefix + module)}
            if inside == {prefix + name for name in names}:
                return naming, {name: prefix + name for name in names}
    return "", {}


def alone(shapes: Shapes) -> tuple[Keys, list[str]] | None:
    """Return the keys of the head in a file of its own, by the names to give them, and those left aside.

    None if the file does not hold a linear head; beside a segmentation head, the optimiser's state may lie.
    """
    if set(shapes) == {"weight", "bias"}:  # a linear layer's own state dict
        return {f"linear_head.{key}": key for key in shapes}, []
    if shapes and all(re.fullmatch(ALONE, key) for key in shapes):
        return {key: key for key in shapes}, []
    own = segmentation_head(shapes)[1]
    aside = [key for key in shapes if key not in own.values()]
    return (own, aside) if own and all(key.startswith("optimizer") for key in aside) else None


def unsupported(keys: Iterable[str]) -> str:
    """Name a published head that is not read, from its keys; "" for others.

    Sources of the names: facebookresearch/dinov3 eval/depth and eval/segmentation; huggingface/transformers
    models/eomt_dinov3.
    """
    keys = list(keys)
    if "upscale_block.block.0.conv1.weight" in keys and "embeddings.position_embeddings.weight" not in keys:
        return "EoMT on DINOv3 (EomtDinov3ForUniversalSegmentation), which is not read: EoMT on DINOv2 is"
    if any("reassemble_blocks.batchnorm_layers" in key for key in keys):
        return "DINOv3's depther, a DPT decoder with batch norms, which is not read"
    if any("pixel_decoder" in key for key in keys):
        return "a Mask2Former segmentor, as DINOv2 and DINOv3 publish one, which is not read"
    return ""


def _moved(found: Keys, keys: Keys, aside: list[str]) -> tuple[Keys, list[str]]:
    taken = set(found.values())
    kept = {name: full for name, full in keys.items() if full not in taken}
    return kept | found, [full for full in aside if full not in taken]


def _two(one: str, other: str) -> str:
    return f"two heads, {one} and {other}: only one can be kept"
