"""From a table to a trained learner."""

from signsclf.mpl import import_matplotlib

# fastai imports it.
import_matplotlib()
