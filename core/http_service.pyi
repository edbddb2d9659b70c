"""Nothing for Python: http_attach gives a reactor this service."""
