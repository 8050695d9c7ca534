"""The settings of a run: what there are, what the command line makes of them, and which of those given have no use."""
