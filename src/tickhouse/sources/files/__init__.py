"""Recorded files: what they hold is found out, and read into blocks of lines; see `opener`."""
