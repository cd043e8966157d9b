"""Figures and the report: reads results, writes pictures and one page."""
