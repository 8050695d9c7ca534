"""PEFT's `adapter_config.json`: read the supported settings, refuse those that would change the outputs."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import read_json
from jaxdino.core.pattern import Pattern
from jaxdino.models.lora import LoRA

STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base weights unchanged."""
WITHOUT_MEANING = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}
"""Fields that are read here, or that do not affect an adapter's outputs; any other field must be empty."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the adapters in the config.

    Attributes:
      where: the file, for errors.
      targets: a regular expression for full module names, or endings of names, as in PEFT; None to skip the check.
      ranks, alphas: {pattern for the end of a module's name: value}.
    """

    where: Path
    rank: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    targets: str | tuple[str, ...] | None
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def shape(self, module: str) -> tuple[int, float]:
        """Return rank and alpha of a module."""
        return _of(self.ranks, module, self.rank), _of(self.alphas, module, self.alpha)

    def lora(self, rank: int, alpha: float) -> LoRA:
        """Return our settings, without targets."""
        return LoRA(rank=rank, alpha=alpha, dropout=self.dropout, rslora=self.rslora, dora=self.dora)

    def check_targets(self, modules: list[str]) -> None:
        """Raise UserError if a target has no tensors, or tensors match no target."""
        if self.targets is None:
            return
        whole = isinstance(self.targets, str)
        targets = (self.targets,) if whole else self.targets

        def matches(target: str, module: str) -> bool:
            return Pattern(target, "target_modules").matches(module) if whole else f".{module}".endswith(f".{target}")

        for target in targets:
            if not any(matches(target, module) for module in modules):
                raise UserError(f"{self.where}: there is no tensor for the target {target!r}")
        for module in modules:
            if not any(matches(target, module) for target in targets):
                raise UserError(f"{self.where}: {module} has tensors, but is none of target_modules {self.targets}")


def _of(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in patterns.items() if Pattern(rf"(.*\.)?({key})").matches(module)), default)


def read_config(path: Path) -> Settings:
    """Read the settings in a file. Raise UserError if it is missing, damaged or not supported."""
    if not path.exists():
        raise UserError(f"{path}: not found; give a folder that PEFT's save_pretrained wrote")
    config = read_json(path, dict)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA can be read")
    if config.get("init_lora_weights", True) not in STARTS:
        raise UserError(
            f"{path}: init_lora_weights={config['init_lora_weights']!r} changes the base weights too: convert the "
            "adapter to plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        )
    for name, value in config.items():
        if name not in WITHOUT_MEANING and value and not (name == "bias" and value == "none"):
            raise UserError(
                f"{path}: {name}={value!r} needs more than low-rank factors on linear layers: not supported"
            )
    try:
        return _settings(path, config)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise UserError(f"{path}: not in the form that PEFT writes: {err!r}") from err


def _settings(path: Path, config: Mapping[str, Any]) -> Settings:
    targets = config["target_modules"]
    if targets == "all-linear" or config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        targets = None
    if isinstance(targets, str):
        Pattern(targets, f"{path}: target_modules")
    settings = Settings(
        where=path,
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout") or 0.0,
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        targets=targets if targets is None or isinstance(targets, str) else tuple(map(str, targets)),
        ranks=dict(config.get("rank_pattern") or {}),
        alphas=dict(config.get("alpha_pattern") or {}),
    )
    for key in (*settings.ranks, *settings.alphas):
        Pattern(key, f"{path}: the pattern")
    for rank in (settings.rank, *settings.ranks.values()):
        for alpha in (settings.alpha, *settings.alphas.values()):
            settings.lora(rank, alpha)  # validates the values
    return settings


def config_of(shapes: Mapping[str, tuple[int, float]], common: LoRA, base: str | None) -> dict[str, Any]:
    """Build PEFT's config for {module: (rank, alpha)}: the most common values, and a pattern for each exception."""
    (rank, alpha), _ = Counter(shapes.values()).most_common(1)[0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": list(shapes),
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": common.dropout,
        "rank_pattern": {name: one[0] for name, one in shapes.items() if one[0] != rank},
        "alpha_pattern": {name: _plain(one[1]) for name, one in shapes.items() if one[1] != alpha},
        "use_rslora": common.rslora,
        "use_dora": common.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _plain(alpha: float) -> int | float:
    return int(alpha) if float(alpha).is_integer() else alpha
