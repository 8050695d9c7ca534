"""Training strategies, one file each: `--config=configs/NAME.py` or `--config=configs/NAME.py:MODEL`."""
