"""Checks of what a federation depends on; `manage.py doctor` prints what they find."""

from connectors.usecases.health.checks import diagnose
from connectors.usecases.health.findings import Finding, Status

__all__ = ["Finding", "Status", "diagnose"]
