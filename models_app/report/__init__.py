"""The overview of a federated model as one file, which loads nothing and runs nothing."""

from models_app.report.page import html_report

__all__ = ["html_report"]
