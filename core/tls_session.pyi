"""Nothing for Python: one HTTPS connection, used by tls_service alone."""
