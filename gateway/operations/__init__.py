"""What operators do: functions that take values and return typed results.

No function here reads arguments, prints, or speaks HTTP: `cli` is one face of them. Each operation has
a module; all work on a `Backend` (`backend.py`) and raise `OperationError` (`errors.py`) for what the
operator can mend. `*_document` functions turn results into JSON documents, the same for every face.

- credit      `grant`, `void`, `adjust`, `refund`; `freeze` (freeze, thaw, kill)
- questions   `wallets`, `holds`, `why`, `verify`, `quote`, `signals`, `events`
- keys        `keys`
- prices      `price_books`, `price_changes`, `price_plan`, `plan_prices`, `pricing_import`
- ledger      `shards` (status), `reopen`, `repair_shards`, `shard_places` (show), `balance`
"""
