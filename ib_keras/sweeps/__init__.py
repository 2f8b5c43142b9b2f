"""Grids of trainings and their audits: what figures are drawn from."""
