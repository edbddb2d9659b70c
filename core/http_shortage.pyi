"""Nothing for Python: who leaves when places are short, used by http_service alone."""
