"""The form of a federated model's settings, generated from what its rules, optimizers and steps take."""

from models_app.admin.settings.changes import changes_in_words
from models_app.admin.settings.form import FederatedModelForm, sections

__all__ = ["FederatedModelForm", "changes_in_words", "sections"]
