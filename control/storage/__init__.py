"""The region's database: one repository per noun, the only SQL of the project."""
