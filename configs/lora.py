"""LoRA: small adapters on every attention and the head; the backbone's own weights are frozen (arXiv:2106.09685).

    python -m jaxdino.main --config=configs/lora.py
    python -m jaxdino.main --config=configs/lora.py:dinov3_vits16 --config.data.root=DIR

The adapters are merged at the end: the saved model is an ordinary one. A ResNet or ConvNeXt has no attention: name
other kernels with `--config.stages[0].lora.targets`. Results on the embedded digits (first command): val
accuracy 0.983, test 0.983.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage of at most 20 epochs."""
    config = common.get_config(model)
    config.optimizer.schedule.warmup_epochs = 1.0
    config.stages = (
        common.stage(
            "lora",
            epochs=20,
            rules=((common.LORA, "lora"), ("@head", "head"), ("@all", "frozen")),
            groups=dict(head=dict(lr=1e-3), lora=dict(lr=5e-4, weight_decay=0.0), frozen=dict(frozen=True)),
            lora=dict(rank=8, alpha=16.0, targets=("@attn",)),
        ),
    )
    return common.fit_digits(config, epochs=dict(lora=10))
