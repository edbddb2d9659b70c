# No Python names: tftp_sender.pxd is the interface.
