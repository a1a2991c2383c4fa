"""Metrics computed from probabilities and targets, with NumPy alone."""
