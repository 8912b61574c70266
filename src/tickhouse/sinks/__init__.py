"""Where tables are kept. One file a store; a new one adds its line to `[project.entry-points."tickhouse.sinks"]`."""
