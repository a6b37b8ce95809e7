"""One request from authentication to settlement. `handler` shows every step on one page.

| step | modules |
|---|---|
| route, authenticate | `known_head`, `lookup`, `paths`, `authentication`, `account_sources` |
| read | `request_body`; the route's dialect |
| estimate | `plan`, `estimate`, `expected_output` |
| reserve | `admission`, `last_credit`, `idempotency`, `reservation/` |
| forward | `sending`, `spread`, `headers`, `header_names`; the pools of `gateway/http/client` |
| relay and meter | `relay`, `stream`, `tap`, `blanking`; `reservation/growth` |
| settle | `reservation/`: `settlement`, `outcome`, `delivery` |
| refuse | `refusals`, `denials`, `rate_fields` |

`catalog` is the compiled configuration, `context` the state of one request, `observer` its metrics
and log line. `sweeper` ends the reservations of workers that died.
"""
