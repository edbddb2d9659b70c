"""The Cython data path: bytes, names, reactors. Imports nothing of ours but itself, links libc only."""

if __name__ != "bootplane.core":  # a second copy under another name would have its own types and counters
    raise ImportError(f"import bootplane.core, not {__name__}")
