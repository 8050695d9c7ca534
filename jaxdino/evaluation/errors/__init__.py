"""Errors that a person looks at: mistakes, typical images, overlays, a map of the features, wrong labels."""
