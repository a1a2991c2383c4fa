"""From a source on disk to one table: layouts, checks, splits, and signs that the package draws."""
