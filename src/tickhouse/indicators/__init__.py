"""Indicators over the bars of a house (rule R10): `indicators` runs them, by a `plan` of what their `specs` need.

`series` says what is asked of the past and what comes out. The loops over bars are the kernel's; every other function is
TA-Lib's. A new indicator of our own is an entry in `specs`.
"""
