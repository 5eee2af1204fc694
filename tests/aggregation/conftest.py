"""Properties are not timed: how long a case takes on a busy machine is no property of the code."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
