"""What the gate is measured against, each started as its users would, at its best.

target.py      what a contender is, and what it stands on
ours.py        the gate, one worker
nginx_lua.py   nginx with a minimal gate in Lua: the same work with the least machinery
hardcap.py     hardcap, the nearest functional peer
litellm.py     LiteLLM's proxy, without a database
portkey.py     Portkey's gateway, which does not gate
"""
