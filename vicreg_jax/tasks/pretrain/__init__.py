"""Joint-embedding pretraining as a task."""
