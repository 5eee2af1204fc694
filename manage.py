#!/usr/bin/env python
"""Django's command line, with the console if its theme is installed, unless ADMIN says otherwise."""

import os
import secrets
import sys
from importlib.util import find_spec

from django.core.exceptions import ImproperlyConfigured

from connectors.management import command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    os.environ.setdefault("ADMIN", "true" if find_spec("unfold") else "false")
    # A command needs no lasting sessions; a server sets a key of its own.
    os.environ.setdefault("SECRET_KEY", secrets.token_urlsafe(50))
    if not command_line.needs_settings(sys.argv[1:]):
        command_line.set_unused_settings()
    try:
        command_line.run(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error}; docs/reference/settings.md lists the settings")
