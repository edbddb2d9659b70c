"""``bootplane demo``: the whole path on one host, real boot files and simulated machines; no root, loopback only."""
