"""Use models outside of training: artefacts, a server, and watching what it predicts."""
