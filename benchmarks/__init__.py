"""The source of the README's figures: ``python -m benchmarks`` writes `benchmarks/results.md`.

Each run is a process of its own. A figure is a ratio of times within one run of the benchmarks, each the
best of a few, or the peak memory of a process as the kernel reports it to its parent.
"""
