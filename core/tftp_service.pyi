# No Python names: tftp_service.pxd is the interface.
