"""Installs the console in place of Django's own admin site."""

from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AdminConfig):
    """Django's admin, with the console as its site."""

    default_site = "models_app.console.site.ConsoleSite"
