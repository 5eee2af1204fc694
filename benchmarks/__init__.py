"""What the README's figures come from: ``python -m benchmarks`` writes `benchmarks/results.md`.

Every figure is a ratio within one run, of times that are the best of a few in processes of their own,
or the peak memory of such a process, measured from outside.
"""
