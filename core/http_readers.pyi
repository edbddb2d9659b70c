"""Nothing for Python: how fast readers are, used by the HTTP service alone."""
