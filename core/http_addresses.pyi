"""Nothing for Python: connections counted per client address, used by http_service alone."""
