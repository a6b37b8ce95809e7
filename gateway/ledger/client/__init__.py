"""Connections to the ledger's server. Start at `runner`: it sends script calls.

`connection` joins the calls of one tick of the loop into one write, `scripts` links the Lua files,
`endpoint` reads the URL, `embedded` runs a server, `faults` and `errors` name what fails, and
`durability`, `fitness` and `rights` check the server.
"""
