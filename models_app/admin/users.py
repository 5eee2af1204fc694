"""Users and groups, with the fields of the theme."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from models_app.admin.base import PagedAdmin

for registered in (User, Group):
    admin.site.unregister(registered)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, PagedAdmin):  # type: ignore[type-arg]
    """Users of the console."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_filter = ("is_staff", "is_superuser", "is_active")
    search_help_text = "Name or e-mail address"
    filter_horizontal = ()  # Django's two boxes are no form fields to a screen reader.


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, PagedAdmin):
    """Groups of users."""

    filter_horizontal = ()
