# No Python names: tftp_requests.pxd is the interface.
