"""Where market data comes from. One file a provider; a new one adds its line to `[project.entry-points."tickhouse.sources"]`."""
