"""The flow of one request (`handler`) and what it stands on: the server, the upstream client."""
