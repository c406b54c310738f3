"""Evaluation of a trained encoder on any datasets, as a task."""
