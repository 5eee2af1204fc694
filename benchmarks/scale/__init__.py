"""Measure pages and commands of a large federation, on an embedded PostgreSQL."""
