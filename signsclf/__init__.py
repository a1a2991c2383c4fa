"""signsclf: train, judge and export image classifiers."""

__version__ = "0.1.0"
