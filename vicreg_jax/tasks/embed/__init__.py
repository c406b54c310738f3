"""Features of a folder or a dataset, as a task."""
