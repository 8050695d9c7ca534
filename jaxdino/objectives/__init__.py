"""What training minimises: `loss(model, batch, key) -> (scalar, aux)`."""
