"""Audits: from a SavedModel to a folder of evidence."""
