-- Entries of the outbox: the only way to report a change of money.

-- Entry of the outbox, in the same step as the balance change. The id is explicit, so that a
-- stream and a shard record that disagree fail here, at the first write. The record goes into
-- the caller's MSET.
local function emit(out, shard, kind, event_id, now, amount, held, cost, balance, list, usage, facts, signals)
  local seq = shard[LAST_SEQ] + 1
  call('XADD', out, format('%.0f-%.0f', shard[EPOCH], seq),
    's', cmsgpack.pack({ kind, event_id, now, amount, held, cost, balance, list, usage, signals }), 'f', facts)
  shard[LAST_SEQ] = seq
end

-- Writes what `catch_up` and `reprice` collected. The customer's id is part of the account's key.
local function tell(out, shard, account_key, now, told)
  local customer = string.match(account_key, '^{[^}]*}:a:(.*)$')
  for _, entry in ipairs(told) do
    local kind, moved, amount, balance, id, facts = unpack(entry)
    facts.customer_id = customer
    if kind == 'expire_grant' then
      id = format('expire_grant:%s:%.0f:%.0f-%.0f', customer, id, shard[EPOCH], shard[LAST_SEQ] + 1)
    elseif kind == 'grant' then
      id = format('allowance:%s:%s', customer, id)
    end
    emit(out, shard, kind, id, now, amount, 0, false, balance, moved, {}, cmsgpack.pack(facts))
  end
end

-- An entry of its own for what a wallet has to announce. facts: of whoever changed the rules, if anyone did.
local function announce(out, shard, account_key, now, balance, signals, facts)
  local customer = string.match(account_key, '^{[^}]*}:a:(.*)$')
  emit(out, shard, 'signals', format('signals:%s:%.0f-%.0f', customer, shard[EPOCH], shard[LAST_SEQ] + 1), now, 0, 0,
    false, balance, {}, {}, facts or cmsgpack.pack({ customer_id = customer }), signals)
end
