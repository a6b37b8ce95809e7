"""The server: sockets of clients to requests, and responses back. Start at `server`, then `connection`.

`receiver` reads heads and bodies (`request_head`, `strictness`, `head_memory`, `body`), `wire` writes,
`exchange` is one request with its response, `limits` has every bound.
"""
