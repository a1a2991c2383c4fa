"""Figures as files: plots, sheets, tables, the HTML report."""
