"""What rules, optimizers and attacks do to learning: ``make bench-learning`` writes `learning.md`."""
