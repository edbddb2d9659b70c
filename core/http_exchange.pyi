"""Nothing for Python: a connection as a state machine, used by the HTTP service."""
