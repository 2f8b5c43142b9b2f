r"""Protocols of audits."""
