# No Python names: tftp_lifecycle.pxd is the interface.
