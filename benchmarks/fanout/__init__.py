"""``python -m benchmarks.fanout``: a round over several functions, each behind a rate limit."""
