"""What operators do by commands: models, clients, records and files. The function does none of it."""
