"""Publication: the latest pointer of each model, and the outbox of events."""
