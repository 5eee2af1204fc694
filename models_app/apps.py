"""The Django app that stores a federation's metadata."""

from django.apps import AppConfig


class ModelsAppConfig(AppConfig):
    """The app's configuration."""

    name = "models_app"
    verbose_name = "Federated models"

    def ready(self) -> None:
        from models_app import protection  # noqa: F401  # It connects the signals.
