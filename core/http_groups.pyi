"""Nothing for Python: turns by groups of clients, used by http_service alone."""
