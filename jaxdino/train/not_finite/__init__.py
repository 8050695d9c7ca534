"""Find the first value of a run that is not finite: check the steps, save the bad one, name its layer."""
