"""One HTML page that shows which labels to trust, and in which a person corrects the others."""

from capkit.report.content import MismatchedClass, ReportContent
from capkit.report.page import write_report

__all__ = ["MismatchedClass", "ReportContent", "write_report"]
