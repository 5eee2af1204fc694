"""The taken-over interface: workflows that run a round step by step through fifteen methods."""
