"""Training objectives: `loss(model, batch, key) -> (scalar, aux)`."""
