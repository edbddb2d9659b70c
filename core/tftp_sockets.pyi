# No Python names: tftp_sockets.pxd is the interface.
