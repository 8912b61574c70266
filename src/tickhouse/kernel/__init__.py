"""The rules as numba-compiled loops over columns and flat state: no I/O, no clock, no logging, no object per trade."""
