"""One experiment a file; see `audits/` for protocols, `sweeps/` for sweeps."""
