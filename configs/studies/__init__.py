r"""Studies: models, protocols and the size of parts."""
