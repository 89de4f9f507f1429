"""Labels of a folder of images as a table and as files, to and from other programs."""

from capkit.labels.formats import FORMATS, check_format, format_of, write_labels
from capkit.labels.reading import merge_labels, read_class_names, read_labels
from capkit.labels.table import LabelTable

__all__ = [
    "FORMATS",
    "LabelTable",
    "check_format",
    "format_of",
    "merge_labels",
    "read_class_names",
    "read_labels",
    "write_labels",
]
