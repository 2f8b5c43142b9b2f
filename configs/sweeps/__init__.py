"""Functions for the `sweep` of a config: rows of grids, and audits.

`grid` is for any sweep; each other module has the audits of one experiment. The
grid itself is in the config.
"""
