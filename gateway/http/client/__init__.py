"""The client of one upstream. Start at `pool`, then `connection`.

`supply` decides which connection a request gets (`idle`, `sharing`, `opening`), `writing` sends the
request, `response` reads the answer (`head`, `body`), `target` builds the request line's path,
`limits` has every bound.
"""
