"""From probabilities and targets to figures, tables and pictures."""
