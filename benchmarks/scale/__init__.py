"""What pages and commands cost beside a large federation, on an embedded PostgreSQL."""
