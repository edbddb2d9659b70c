"""Nothing for Python: handshakes of HTTPS, used by tls_service alone."""
