"""Objects of libraries without types, or whose types are narrower than what they accept."""

from __future__ import annotations

from typing import Any

from django.core.files.storage import default_storage as _default_storage

#: django-storages' S3 storage has a connection and a bucket, of which Django's type knows nothing.
default_storage: Any = _default_storage
