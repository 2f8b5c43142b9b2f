"""One experiment a file; `audits/` holds the protocols."""
