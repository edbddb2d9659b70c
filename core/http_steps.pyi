"""Nothing for Python: what a connection does next, used by http_service alone."""
