"""Calibration of a run's probabilities: fit on validation images, measure on others, keep with the model."""
