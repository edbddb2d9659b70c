"""Python that builds and feeds the reactors: store, fill, names, the rack process. May import core."""

if __name__ != "bootplane.dataplane":
    raise ImportError(f"import bootplane.dataplane, not {__name__}")
