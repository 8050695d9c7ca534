"""Configs for one small machine: a GPU of 16 GB, a free notebook, a laptop."""
