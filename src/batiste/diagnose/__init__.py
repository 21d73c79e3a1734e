"""Diagnosis: what a model is made of before it is run, and what went wrong after: why a program is traced again."""

from batiste.diagnose._differences import Difference
from batiste.diagnose._nan import ArrayStatistics, NonFinite, find_nan
from batiste.diagnose._retrace import Retrace, WatchedFunction, explain_retrace, watch_retraces
from batiste.diagnose._summary import Summary, SummaryRow, summary

__all__ = [
    "ArrayStatistics",
    "Difference",
    "NonFinite",
    "Retrace",
    "Summary",
    "SummaryRow",
    "WatchedFunction",
    "explain_retrace",
    "find_nan",
    "summary",
    "watch_retraces",
]
