"""Benchmarks: run each as `python -m tests.bench.NAME`. They measure and print; they never pass or fail."""
