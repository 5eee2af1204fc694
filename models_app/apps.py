"""The Django app that keeps a federation's metadata."""

from django.apps import AppConfig


class ModelsAppConfig(AppConfig):
    """The app's name."""

    name = "models_app"
    verbose_name = "Federated models"
