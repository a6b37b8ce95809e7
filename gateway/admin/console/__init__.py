"""`/console`: pages for people."""
