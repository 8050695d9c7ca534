"""Convert weights between PyTorch checkpoints and jaxdino, both ways and bit for bit."""
