"""What each sink costs the exporter, next to a loader that does nothing else."""
