"""``bootplane demo``: the whole path on one machine, with real boot files and simulated machines. Unprivileged, loopback."""
