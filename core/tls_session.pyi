"""Nothing for Python: one HTTPS connection, used by the other modules of HTTPS alone."""
