"""Nothing for Python: see tftp_load."""
