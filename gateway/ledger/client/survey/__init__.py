"""What a ledger's servers allow and keep, as `check --connect` shows it. Changes nothing.

`node` asks one server, `ledger` all of them, `managed` recognises services that run servers for others.
The start of a gate does not go by this: it refuses with what `rights` and `durability` say.
"""
