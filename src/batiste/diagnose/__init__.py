"""Diagnosis: what a model is made of and what it does, by module path, and what went wrong.

Every tool is a function on ``(model, variables, *inputs)`` of a model that is not changed: ``find_nan``,
``check_pure``, ``capture``, ``keys``, ``lint``, ``dtypes``, ``profile``. They read the program that JAX traces, in
which every equation knows its module; the programs that are run otherwise have nothing added.
"""

from batiste.diagnose._capture import Capture, Captured, Statistics, capture
from batiste.diagnose._costs_table import ModuleRow
from batiste.diagnose._differences import Difference
from batiste.diagnose._dtypes import DtypeRow, Dtypes, WithPolicy, dtypes, with_policy
from batiste.diagnose._findings import Finding, Findings
from batiste.diagnose._keys import Draw, Keys, keys
from batiste.diagnose._lint import lint, never_updated
from batiste.diagnose._nan import ArrayStatistics, NonFinite, find_nan
from batiste.diagnose._profile import Profile, ProfileRow, profile
from batiste.diagnose._purity import check_pure
from batiste.diagnose._retrace import Retrace, TraceRecord, WatchedFunction, explain_retrace, watch_retraces
from batiste.diagnose._summary import Summary, SummaryRow, summary

__all__ = [
    "ArrayStatistics",
    "Capture",
    "Captured",
    "Difference",
    "Draw",
    "DtypeRow",
    "Dtypes",
    "Finding",
    "Findings",
    "Keys",
    "ModuleRow",
    "NonFinite",
    "Profile",
    "ProfileRow",
    "Retrace",
    "Statistics",
    "Summary",
    "SummaryRow",
    "TraceRecord",
    "WatchedFunction",
    "WithPolicy",
    "capture",
    "check_pure",
    "dtypes",
    "explain_retrace",
    "find_nan",
    "keys",
    "lint",
    "never_updated",
    "profile",
    "summary",
    "watch_retraces",
    "with_policy",
]
