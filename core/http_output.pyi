"""Nothing for Python: sending responses, used by http_service alone."""
