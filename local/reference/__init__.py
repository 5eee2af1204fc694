"""The pages of docs/ that are generated from the code.

They are committed, so that they can be read on a code host. A test generates them again and compares.
"""

from collections.abc import Callable

from local.reference.api import api_page, openapi_document
from local.reference.commands import commands_page
from local.reference.decisions import decisions_page
from local.reference.events import events_page
from local.reference.limits import limits_page
from local.reference.markdown import FOLDER
from local.reference.rules import optimizers_page, requirements_page, rules_page
from local.reference.settings import settings_page
from local.reference.storage import storage_page

__all__ = ["FOLDER", "PAGES"]

#: The function that generates each page, by its path below docs/.
PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/limits.md": limits_page,
    "reference/commands.md": commands_page,
    "reference/rules.md": rules_page,
    "reference/optimizers.md": optimizers_page,
    "reference/requirements.md": requirements_page,
    "reference/events.md": events_page,
    "reference/storage.md": storage_page,
    "reference/api.md": api_page,
    "reference/openapi.json": openapi_document,
    "decisions/README.md": decisions_page,
}
