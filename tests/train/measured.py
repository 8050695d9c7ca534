"""The entries of metrics.jsonl that are measured anew by every run, and therefore differ between equal runs."""

MEASURED = ("time", "images_per_second", "waiting", "process_memory_gib", "device_memory_gib")
