"""Nothing for Python: what a request's record needs, used by the HTTP service alone."""
