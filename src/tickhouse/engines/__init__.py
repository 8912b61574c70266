"""What runs pipelines: embedded in one process, or on a cluster. Engines know nothing of rules."""
