"""From a table to a trained learner."""

from signsclf.report.mpl import import_matplotlib

# fastai imports it.
import_matplotlib()
