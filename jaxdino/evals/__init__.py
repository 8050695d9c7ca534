"""Evaluate frozen features: nearest neighbours, linear probes, pictures."""
