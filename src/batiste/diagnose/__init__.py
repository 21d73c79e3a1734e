"""Diagnosis: what a model is made of, before it is run and after it went wrong."""

from batiste.diagnose._summary import Summary, SummaryRow, summary

__all__ = ["Summary", "SummaryRow", "summary"]
