"""Speed against PyTorch peers: one command each, `python -m benchmarks.NAME`. Results: docs/performance.md."""
