"""Sync: make our copy of the selected images like the boot sources'."""
