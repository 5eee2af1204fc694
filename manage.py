#!/usr/bin/env python
"""Django's command line, with the admin switched on unless ADMIN says otherwise."""

import os
import secrets
import sys

from django.core.exceptions import ImproperlyConfigured

from connectors.management import typed

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    os.environ.setdefault("ADMIN", "true")
    # Sessions of a command need not outlive it; a server that is to keep them sets its own key.
    os.environ.setdefault("SECRET_KEY", secrets.token_urlsafe(50))
    if typed.needs_no_federation(sys.argv[1:]):
        typed.set_no_federation()
    try:
        typed.run(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error}; README.md lists the settings")
