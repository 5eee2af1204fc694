"""The laboratory beside Flower's simulation: ``make bench-simulation`` writes `simulation.md`."""
