"""LocoProp as a task."""
