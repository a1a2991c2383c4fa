"""From a table to a trained learner."""
