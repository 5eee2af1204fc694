"""Intake: uploads are registered as updates or scores, or rejected with a reason."""
