"""What a run is on its machine: its directory, its processes, its signals and its errors."""
