"""How a house is read: queries, the live hub, the API and the dashboard."""
