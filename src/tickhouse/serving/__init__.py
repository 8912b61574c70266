"""How a house is read: questions to its tables, and the hub that hands on what is made now. The API stands on both."""
