"""Watch what a served model sees: drift against a reference, a log of predictions, alerts."""
