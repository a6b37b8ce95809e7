"""An event as one JSON object: the columns by name, in their order."""

import orjson

from gateway.domain.event_rows import EventRow


def event_json(row: EventRow) -> bytes:
    """Encode a row. `usage`, `allocations` and `facts` are JSON text already and are copied, not parsed.

    The dictionary is written out because building it from the columns' names took as long again.
    """
    (
        event_id,
        shard,
        epoch,
        seq,
        kind,
        occurred_at_ms,
        customer_id,
        project_id,
        key_id,
        request_id,
        route,
        model,
        upstream,
        livemode,
        price_version,
        amount_nano,
        estimated_amount_nano,
        cost_nano,
        balance_nano,
        usage,
        allocations,
        facts,
    ) = row
    plain = orjson.dumps(
        {
            "event_id": event_id,
            "shard": shard,
            "epoch": epoch,
            "seq": seq,
            "kind": kind,
            "occurred_at_ms": occurred_at_ms,
            "customer_id": customer_id,
            "project_id": project_id,
            "key_id": key_id,
            "request_id": request_id,
            "route": route,
            "model": model,
            "upstream": upstream,
            "livemode": livemode,
            "price_version": price_version,
            "amount_nano": amount_nano,
            "estimated_amount_nano": estimated_amount_nano,
            "cost_nano": cost_nano,
            "balance_nano": balance_nano,
        }
    )
    nested = f',"usage":{usage},"allocations":{allocations},"facts":{facts}}}'
    return plain[:-1] + nested.encode()
