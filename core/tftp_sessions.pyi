# No Python names: tftp_sessions.pxd is the interface.
