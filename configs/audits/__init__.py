"""Protocols of audits."""
