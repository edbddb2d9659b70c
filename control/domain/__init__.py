"""The nouns of the region as plain data: no I/O, no SQL, no clock."""
