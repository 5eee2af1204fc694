"""What the overview of a federated model shows, and how its plots are drawn."""

from models_app.control_room.page import control_room

__all__ = ["control_room"]
