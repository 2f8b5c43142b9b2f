"""What the `sweep` of a config is written with: rows of grids, and audits.

`grid` is for any sweep; the other modules hold the audits of one experiment
each. The grid itself is in the config.
"""
