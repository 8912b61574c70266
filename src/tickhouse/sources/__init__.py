"""Where market data comes from. One file a provider; a new one adds a line to `[project.entry-points."tickhouse.sources"]`."""
