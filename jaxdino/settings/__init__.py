"""The settings of a run: declaration, command line, and a check for settings without effect."""
