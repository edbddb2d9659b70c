"""The control plane: regions, boot sources, sync, API, command line, web. May import dataplane and core."""

if __name__ != "bootplane.control":
    raise ImportError(f"import bootplane.control, not {__name__}")
