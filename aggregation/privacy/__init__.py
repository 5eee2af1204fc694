"""Central differential privacy: settings, the account, and noise. Imported by what uses it."""
