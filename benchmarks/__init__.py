"""Scripts that measure the toolkit; nothing here is part of the installed package."""
