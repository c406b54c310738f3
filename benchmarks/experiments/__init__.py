"""Experiments with many runs each: one command, one JSON file, one figure."""
