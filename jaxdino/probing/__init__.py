"""Probes of cached features: many heads at once, chosen by validation, measured on test, put into the model."""
