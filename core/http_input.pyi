"""Nothing for Python: reading requests, used by http_service alone."""
