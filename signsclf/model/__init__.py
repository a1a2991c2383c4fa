"""The format of a model folder."""
