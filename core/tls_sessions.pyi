"""Nothing for Python: the HTTPS sessions of a reactor, used by tls_service and tls_handshakes."""
