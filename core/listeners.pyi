"""Nothing for Python: the listening sockets of a service, used by http_service and tls_service."""
