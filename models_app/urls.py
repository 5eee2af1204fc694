"""The console, and nothing else."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

urlpatterns = [
    path("favicon.ico", RedirectView.as_view(url=static("models_app/icon.svg"))),
    path("", admin.site.urls),
]
