"""The round protocol over the database: claims, leases, publication and settlement."""
