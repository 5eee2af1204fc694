"""`python -m local.reference`: write them all."""

from __future__ import annotations

import os

import django

# What is documented does not depend on them, but Django asks.
if not os.environ.get("DATABASE_URL"):
    os.environ |= {"DATABASE_URL": "sqlite:///:memory:", "STORAGE_ROOT": "/nonexistent"}
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from local.reference import FOLDER, PAGES  # noqa: E402

for name, write in PAGES.items():
    (FOLDER / name).write_text(write())
