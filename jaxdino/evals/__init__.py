"""What frozen features are worth: nearest neighbours, linear probes, pictures."""
