"""Self-distillation from released weights: continue to train a backbone on your own images, and keep what it knows.

    python -m jaxdino.main --config=configs/ssl_continue.py
    python -m jaxdino.main --config=configs/ssl_continue.py:dinov3_vits16 --config.data.name=images \\
        --config.data.root=DIR --config.model.weights=dinov3_vits16.pth

The released weights have no projection head, and the gradients of a new head would damage a good backbone. So the first
stage trains only the head. The second trains everything, with a low rate and layer decay, and with anchors to the
initial weights: to the patches' similarities (Gram anchoring, arXiv:2508.10104) and to the class token's direction.
`--config.stages[1].objective.gram=2.0` sets the weight of an anchor. To train adapters instead, see ssl_lora.
"""

from ml_collections import ConfigDict

from configs import common, ssl


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with two stages: the head, then everything."""
    config = common.distill_config(model)
    head, frozen = dict(lr=5e-4), dict(frozen=True)
    anchored = dict(momentum=0.999, gram=1.0, anchor=1.0)
    config.stages = (
        common.distill_stage(
            "head",
            epochs=5,
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=head, frozen=frozen),
            schedule=dict(warmup_epochs=1.0, final=1.0),
            objective=dict(gram=0.0, koleo=0.0, final_momentum=0.996, momentum=0.996),
        ),
        common.distill_stage(
            "adapt",
            epochs=20,
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=dict(lr=1e-4), backbone=dict(lr=2e-5, layer_decay=0.8)),
            schedule=dict(warmup_epochs=2.0, final=1e-2),
            objective=anchored,
        ),
    )
    return ssl.fit_digits(config, epochs=dict(head=5, adapt=10), rates=dict(head=2e-3, backbone=1e-3), momentum=0.98)
