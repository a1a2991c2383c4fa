"""A model and a source to figures and a report."""
