"""Gradual unfreezing of a ViT-B on one GPU of 16 GB, in half precision.

    python -m jaxdino.main --config=small/gpu_16gb --config.data.root=DIR
    python -m jaxdino.main --config=small/gpu_16gb:dinov3_vitb16 --config.data.root=DIR

The stages are those of `gradual`. A GPU older than Ampere (T4, V100) has no bfloat16: see small/notebook. Estimates by
`python -m benchmarks.config_memory small/gpu_16gb`, from the program compiled for a CPU, not measured on a GPU; minutes
for 1,000 images at 20 TFLOP/s:

    stage  batch  memory    TFLOP  minutes
    head      32  879 MiB      47     0.04
    last      32  1.5 GiB      62     0.05
    all       32  6.7 GiB     139     0.12

Recomputing activations, `--config.model.remat=blocks`, takes a third more operations in the last stage (186 TFLOP); a
batch of 64 then needs 3.0 GiB.
"""

from ml_collections import ConfigDict

from configs import gradual


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `gradual` in bfloat16."""
    config = gradual.get_config(model or "dinov2_vitb14")
    config.precision = "bfloat16"
    config.data.update(batch_size=32, num_threads=8)
    return config
