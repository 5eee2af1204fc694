"""The console: Django's admin with the theme of django-unfold, which the function does not have."""
