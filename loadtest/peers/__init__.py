"""What the gate is measured against, each started as its users would, at its best.

nginx_lua.py   nginx with a gate of its own in Lua: the same work with the least machinery
"""
