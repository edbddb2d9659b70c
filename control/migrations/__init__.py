"""Migrations of the region's database, run at start by storage.database."""
