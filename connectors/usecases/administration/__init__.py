"""Use cases of operators' commands: models, clients, records and files. The function uses none."""
