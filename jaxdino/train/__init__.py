"""Training: the state, the step, the loop over stages, checkpoints and the run folder."""
