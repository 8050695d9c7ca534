"""Start `jaxdino train` in several processes: on this machine, and templates for clusters (docs/launch.md)."""
