"""Anomaly detection from the patches of a frozen backbone: fitted on good images alone, nothing is trained."""
