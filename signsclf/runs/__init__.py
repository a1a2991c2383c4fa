"""A run, from a source to a model folder."""
