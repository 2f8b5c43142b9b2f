"""Grids of trainings and their audits, from which figures are drawn."""
