"""Gradual unfreezing of a ViT-S in a free notebook: one T4 or P100 of 16 GB, two CPU cores, a limited session.

Kaggle, with the images as an input of the notebook; in the next session, add the output of this one as an input:

    python -m jaxdino.main --config=small/notebook --config.data.root=/kaggle/input/IMAGES --workdir=/kaggle/working/run
    cp -r /kaggle/input/LAST/run /kaggle/working/run    # next session, before the same command

Colab, with the run on Drive and the images on the machine (reading many small files from Drive is slow):

    python -m jaxdino.main --config=small/notebook --config.data.root=/content/IMAGES \\
        --workdir=/content/drive/MyDrive/run

The run saves and ends after `time_limit`, before the session does: 8h30m. Colab's sessions may be shorter:
`--config.time_limit=3h`. The same command resumes it, and the result is the same as without a stop. These GPUs have no
bfloat16; float16 scales the loss. Two processes read the images, one for each core. Estimates by
`python -m benchmarks.config_memory small/notebook`, from the program compiled for a CPU, not measured on a GPU; minutes
for 1,000 images at 20 TFLOP/s, if reading keeps up:

    stage  batch  memory     TFLOP  minutes
    head      64  427 MiB       12     0.01
    last      64  2.1 GiB       16     0.01
    all       64  11.8 GiB      37     0.03
"""

from ml_collections import ConfigDict

from configs import gradual


def get_config(model: str | None = None) -> ConfigDict:
    """Return the config of `gradual` in float16, with a time limit and checkpoints within an epoch."""
    config = gradual.get_config(model or "dinov2_vits14")
    config.precision = "float16"
    config.time_limit = "8h30m"
    config.data.update(batch_size=64, num_workers=2)
    config.checkpoint.every_steps = 500
    return config
