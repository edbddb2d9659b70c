"""Coming from MAAS: what an older installation keeps in its database, taken over once."""
