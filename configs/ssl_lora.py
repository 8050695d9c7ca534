"""Self-distillation from released weights through adapters only: LoRA (arXiv:2106.09685) on every attention.

    python -m jaxdino.main --config=configs/ssl_lora.py
    python -m jaxdino.main --config=configs/ssl_lora.py:dinov3_vitl16 --config.data.name=images --config.data.root=DIR

As ssl_continue, but the backbone's own weights are frozen, which needs the least memory and forgets the least. The
adapters are merged at the end: the saved model is an ordinary backbone.
"""

from ml_collections import ConfigDict

from configs import common, ssl, ssl_continue


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with two stages: the head, then head and adapters."""
    config = ssl_continue.get_config(model)
    config.stages = (
        config.stages[0],
        common.distill_stage(
            "lora",
            epochs=20,
            rules=((common.LORA, "lora"), ("@head", "head"), ("@all", "frozen")),
            groups=dict(head=dict(lr=1e-4), lora=dict(lr=5e-4, weight_decay=0.0), frozen=dict(frozen=True)),
            schedule=dict(warmup_epochs=2.0, final=1e-2),
            objective=dict(momentum=0.999, gram=1.0, anchor=1.0),
            lora=dict(rank=8, alpha=16.0, targets=("@attn",)),
        ),
    )
    return ssl.fit_digits(config, epochs=dict(head=5, lora=10), rates=dict(head=2e-3, lora=1e-3), momentum=0.98)
