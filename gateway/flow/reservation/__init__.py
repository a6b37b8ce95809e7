"""One hold, from the reserve to the settlement. `reservation` is the block that the flow opens.

| module | responsibility |
|---|---|
| `progress` | the stage of a request, and the table of its transitions |
| `growth`, `growing` | extends the hold: deadline, checkpoint, amount; what that needs |
| `live` | all running reservations of a worker |
| `ended` | a request at its end, and the questions that outcomes ask about it |
| `seen_usage` | the usage that was reported or counted, and whether it is complete |
| `outcome` | `OUTCOMES`: one row for each way a request can end |
| `settlement` | applies the outcome: fills in the event, packs the settle or release |
| `pending_settlement`, `delivery` | send it to the ledger, or to the journal on disk |
| `kept_settlements` | keeps what the ledger has answered until the store has it, and repeats what a failover lost |
"""
