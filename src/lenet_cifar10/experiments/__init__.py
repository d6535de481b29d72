"""DVC experiments and revisions: reading them, several seeds, a search."""
