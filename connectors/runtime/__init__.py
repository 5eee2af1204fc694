"""The function's runtime: events in, responses out, logs and metrics."""
