"""The Lambda runtime: events in, responses and telemetry out, and the hooks of the environment."""
