"""Evaluate a finished classification run: figures with intervals, as JSON, Markdown and one page."""
