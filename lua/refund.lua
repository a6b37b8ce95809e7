#!lua flags=allow-oom
-- refund: gives back what an event charged, or a part of it, done once per operation id; over
-- all refunds of an event never more than the charge. It goes back to the grants that paid, the
-- last one first. A grant that was used up and dropped is opened again under its number; what an
-- expired or voided one had paid, or the overdraft, repays the overdraft, and the rest becomes a
-- grant of its own that is burned last and never expires.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] ops
-- KEYS[4] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
-- ARGV[2] op_id
-- ARGV[3] terms  <ddH: charged_nano (net of what a late settle gave back), amount_nano, bytes of the event id;
--               the id of the event; then who paid, n × <ddBBId: grant_no (0: overdraft), amount_nano, and if the
--               grant is known category (else 0), priority, scope bits, expires_at_ms (0: never)
-- ARGV[4] facts
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   exists_with_different_parameters
--   more_than_charged  left_nano: what can still be refunded of this event
--   too_many_grants
--   total_too_large
--   refunded  left_nano, balance_nano, epoch, seq, replayed (0 or 1)
--
-- writes: out, ops, shard, account.

-- uses: whole, clock, open_shard, read_account, pack_account, note, credit, find_grant, add_grant
-- uses: drop_exhausted, credit_back, notice, emit

-- read
local times, terms = { sunpack('<ddd', ARGV[1]) }, { sunpack('<ddH', ARGV[3]) }
local id, charged, amount, paid_at = ARGV[2], terms[1], terms[2], 19 + terms[3]
local event_id, paid = string.sub(ARGV[3], 19, paid_at - 1), string.sub(ARGV[3], paid_at)
if not whole(times) or not whole(terms) or #id == 0 or #id > MAX_ID or #event_id == 0
  or amount == 0 or #paid % 30 ~= 0 or #paid > 30 * (MAX_GRANTS + 1) then
  return { 'bad_arguments' }
end
local rows, total_paid = {}, 0
for at = 1, #paid, 30 do
  local row = { sunpack('<ddBBId', paid, at) }
  if not whole(row) or row[3] > 4 then return { 'bad_arguments' } end
  rows[#rows + 1] = row
  total_paid = total_paid + row[2]
end
if total_paid < charged then return { 'bad_arguments' } end
local of_event = 'refunded:' .. event_id
local raw_shard, raw, earlier = call('GET', KEYS[1]), call('GET', KEYS[2]), call('HGET', KEYS[3], id)
local refunded = call('HGET', KEYS[3], of_event)
local shard, closed = open_shard(raw_shard, times[2], times[3])
if not shard then return { closed } end
if not raw then return { 'unknown_account' } end
local now, told = clock(times[1]), {}
local a = read_account(raw)

-- decide
local before = refunded and cmsgpack.unpack(refunded)[3] or 0
local what = spack('<d', amount) .. event_id
if earlier then
  local did = cmsgpack.unpack(earlier)
  if did[1] ~= 'refund' or did[2] ~= what then return { 'exists_with_different_parameters' } end
  local _, _, balance = credit(a, 0, now)
  return { 'refunded', math.max(0, charged - before), balance, did[5], did[6], 1 }
end
if before + amount > charged then return { 'more_than_charged', math.max(0, charged - before) } end
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end
local skip, left, own, moved = total_paid - charged + before, amount, 0, {}
for i = #rows, 1, -1 do
  local no, part, category, priority, bits, expires_at = unpack(rows[i])
  local passed = math.min(skip, part)
  skip, part = skip - passed, math.min(part - passed, left)
  left = left - part
  if part > 0 then
    local g = no > 0 and find_grant(a, no)
    if g then expires_at = a[g + EXPIRES_AT] end
    if no == 0 or (expires_at > 0 and expires_at <= now) or not (g or category > 0) then
      own = own + part
    else
      if g then
        a[g + REMAINING] = a[g + REMAINING] + part
      else
        local next_no = a[NEXT_GRANT_NO]
        a[NEXT_GRANT_NO] = no
        add_grant(a, category, priority, bits, part, 0, expires_at, now)
        a[NEXT_GRANT_NO] = next_no
      end
      if expires_at > 0 and expires_at < a[SWEEP_AT] then a[SWEEP_AT] = expires_at end
      note(moved, no, part)
    end
  end
end
if own > 0 then credit_back(a, own, 255, now, moved) end
if a[N_GRANTS] > MAX_GRANTS then
  drop_exhausted(a)
  if a[N_GRANTS] > MAX_GRANTS then return { 'too_many_grants' } end
end
a[ADJUSTED] = a[ADJUSTED] + amount
if math.abs(a[ADJUSTED]) > MAX_AMOUNT then return { 'total_too_large' } end
local _, _, balance = credit(a, 0, now)
local signals = notice(a, balance, now, 0)

-- write
-- uses: tell
tell(KEYS[4], shard, KEYS[2], now, told)
emit(KEYS[4], shard, 'adjust', id, now, amount, 0, false, balance, moved, {}, ARGV[4], signals)
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
call('HSET', KEYS[3], id, cmsgpack.pack({ 'refund', what, 0, now, epoch, seq, ARGV[4] }),
  of_event, cmsgpack.pack({ 'refunded', '', before + amount, '' }))
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
return { 'refunded', charged - before - amount, balance, epoch, seq, 0 }
