"""Protocols of published benchmarks on frozen features, and of data sets that have no single one."""
