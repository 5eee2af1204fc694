"""Use cases: what the handler and the management commands do, each in one module."""
