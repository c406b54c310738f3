"""The sparse manifold transform as a task."""
