"""Figures from probabilities and targets, with NumPy alone."""
