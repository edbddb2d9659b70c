"""Nothing for Python: whose HTTP's end of a pair is, used by the other modules of HTTPS."""
