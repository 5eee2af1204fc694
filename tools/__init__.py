"""What `make` calls to set up environments and to lock dependencies. Only the standard library is used."""
