"""The operations over HTTP: an API for programs, a console for people."""
