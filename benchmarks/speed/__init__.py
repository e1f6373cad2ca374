"""How fast the toolkit is, each part beside what it is measured against; see `__main__`."""
