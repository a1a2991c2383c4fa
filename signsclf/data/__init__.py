"""From a source on disk to one table: layouts, checks, splits, and synthetic signs."""
