"""Nothing for Python: how a connection ends, used by http_service alone."""
