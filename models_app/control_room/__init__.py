"""The control room: what the admin's page of a federated model shows above its settings."""

from models_app.control_room.page import control_room

__all__ = ["control_room"]
