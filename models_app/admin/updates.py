"""Updates, with the reasons of those that were rejected."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from models_app import models
from models_app.admin.base import MODEL_FILTER, RecordAdmin
from models_app.admin.links import (
    NOTHING,
    link,
    moment,
    number,
    parents_of,
    status_badge,
)
from models_app.admin.pages import PageAdmin, RecordPage
from models_app.control_room.charts import BYTES, amount


@admin.register(models.ModelUpdate)
class ModelUpdateAdmin(RecordAdmin, PageAdmin):
    """Updates, with the reasons of those that were rejected."""

    tab = "Updates"
    client_path = "client"
    list_display = ("name", "client_link", "state", "reason", "made_by", "examples", "sent")
    list_filter = (("status", admin.ChoicesFieldListFilter), MODEL_FILTER)
    list_select_related = ("client", "round")
    search_fields = ("id__exact",)
    search_help_text = "Name or id of a client, or number of an update"
    ordering = ("-id",)

    @admin.display(description="update")
    def name(self, obj: models.ModelUpdate) -> str:
        """Return what an update is called."""
        return f"Update {obj.pk}"

    @admin.display(description="client")
    def client_link(self, obj: models.ModelUpdate) -> SafeString:
        """Return a link to the client."""
        return link(obj.client)

    @admin.display(description="status")
    def state(self, obj: models.ModelUpdate) -> SafeString:
        """Return the status."""
        return status_badge(obj)

    @admin.display(description="reason")
    def reason(self, obj: models.ModelUpdate) -> SafeString | str:
        """Return why it was rejected, in full."""
        return obj.rejection_reason or NOTHING

    @admin.display(description="round")
    def made_by(self, obj: models.ModelUpdate) -> SafeString:
        """Return a link to the round."""
        return link(obj.round)

    @admin.display(description="examples")
    def examples(self, obj: models.ModelUpdate) -> str:
        """Return the number of examples."""
        return f"{obj.num_examples:,}"

    @admin.display(description="uploaded")
    def sent(self, obj: models.ModelUpdate) -> SafeString:
        """Return when it was uploaded."""
        return moment(obj.uploaded_on)

    def record_page(self, request: HttpRequest, obj: models.ModelUpdate) -> RecordPage:
        return RecordPage(
            parents=parents_of(obj, "Updates"),
            badge=status_badge(obj),
            problem=obj.rejection_reason,
            facts=[
                ("Client", link(obj.client)),
                ("Uploaded", moment(obj.uploaded_on)),
                ("Registered", moment(obj.created_on)),
                ("Examples", number(obj.num_examples)),
                ("Steps", number(obj.num_steps)),
                (
                    "Based on",
                    link(obj.base_aggregate) if obj.base_aggregate else "the initial model",
                ),
                ("Round", link(obj.round)),
                ("Part of", link(obj.applied_aggregate)),
                ("Norm of its difference", number(obj.norm)),
                ("Cosine with the aggregate", number(obj.cosine)),
                ("Size", amount(obj.size, BYTES) or NOTHING),
                ("Object", format_html("<code>{}</code>", obj.data.name)),
            ],
        )
