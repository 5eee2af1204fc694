"""Django's PostgreSQL backend with IAM database authentication."""
