"""The operator's side: health, metrics, queries. Its own port, its own credential."""
