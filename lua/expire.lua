#!lua flags=allow-oom
-- expire: ends a hold whose deadline has passed. Charges the checkpoint, which reserve set and each
-- extend replaced, and gives the rest back. What an expiry shall charge (the input, the entire hold,
-- nothing) is thus said by the gate, in quantities.
--
-- KEYS[1] due
-- KEYS[2] out
-- KEYS[3] shard
-- KEYS[4] account
-- KEYS[5] reservation
-- KEYS[6] project  if the mask has 1; else the key
-- KEYS[7] key  if the mask has 1 and 2
-- ARGV[1] head  <dddB: now_ms (0: the ledger's clock), seen_epoch, seen_count, mask of scopes given
-- ARGV[2] reservation_id
--
-- replies, the first that applies:
--   bad_arguments
--   went_back, wrong_layout, shard_frozen: the shard
--   gone: no hold and no tombstone; its deadline is struck off
--   unknown_account
--   wrong_scopes  ids: the hold's limits count in records that were not given
--   not_due  deadline_ms
--   total_too_large
--   expired, settled, released, settled_late  charged_nano, balance_nano, epoch, seq, replayed (0 or 1)
--
-- writes: out, shard, account, reservation (tombstone), due, and the scope records of the hold; of no
--         hold, due alone.

-- uses: whole, clock, read, open_shard, read_account, pack_account, read_scopes, store, rate
-- uses: credit, spend_hold, notice, count_out, emit

-- read
local head = { sunpack('<dddB', ARGV[1]) }
local id = ARGV[2]
if not whole(head) or #id == 0 or #id > MAX_ID then return { 'bad_arguments' } end
local values = read(3)
local shard, closed = open_shard(values[1], head[2], head[3])
if not shard then return { closed } end
call('ZCARD', KEYS[1]) -- its type
local now, mask = clock(head[1]), head[4]
local hold = values[3]
if not hold then
  call('ZREM', KEYS[1], id)
  return { 'gone' }
end
if not values[2] then return { 'unknown_account' } end
local a, state, told, told_after = read_account(values[2]), byte(hold, 1), {}, {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end

-- decide
if state ~= PENDING then
  call('ZREM', KEYS[1], id)
  local e = { sunpack(ENDED, hold) }
  local _, _, balance = credit(a, 0, now)
  -- uses: OUTCOMES
  return { OUTCOMES[state], e[E_CHARGED], balance, e[E_EPOCH], e[E_SEQ], 1 }
end
local h = { sunpack(HOLD, hold) }
local n, rows_size, costs_size = h[H_UNITS], h[H_ROWS], h[H_COSTS]
local marks_at = offset_of_marks(h)
local estimate_at, rows_at, ids_at = offset_of_estimate(h), offset_of_rows(h), offset_of_ids(h)
if bit.band(h[H_MASK], bit.bnot(mask)) ~= 0 then
  return { 'wrong_scopes', string.sub(hold, ids_at, ids_at + h[H_IDS] - 1) }
end
if now < h[H_DEADLINE] then return { 'not_due', h[H_DEADLINE] } end
local used = string.sub(hold, offset_of_checkpoint(h), rows_at - 1)
local usage, tokens, marks, n_marks, meter = {}, 0, string.sub(hold, marks_at, estimate_at - 1), h[H_TIERED], nil
if n_marks > 0 then
  -- uses: read_marks
  meter = { a = a, mode = 'charge', marks = read_marks(hold, marks_at, n_marks) }
  -- uses: leave_periods
  leave_periods(a, h, hold, meter.marks)
end
local charge = rate(hold, rows_at, rows_size, used, 1, n, usage, meter)
if charge and meter then
  -- uses: count_periods
  count_periods(a, meter)
  marks = meter.next_marks
end
charge = charge or h[H_HELD] -- what nobody can rate
local credited = charge < 0 and 0 - charge or 0
if n_marks > 0 then marks = marks .. spack('<d', credited) end
charge = charge + credited
local cost = costs_size > 0 and rate(hold, offset_of_costs(h), costs_size, used, 1, n) or false
for i = 1, #usage, 2 do
  if usage[i] % 32 < 20 then tokens = tokens + usage[i + 1] end
end
local scopes, limits = {}, {}
if h[H_LIMITS] > 0 then
  scopes = read_scopes(a, values, 4, mask)
  limits = count_out(scopes, h, hold, charge, 1, tokens)
end
local paid = spend_hold(a, h, hold, charge, now)
if a[SETTLED] > MAX_AMOUNT or a[OVERDRAFT] > MAX_AMOUNT then return { 'total_too_large' } end
local _, _, balance = credit(a, 0, now)
if credited > 0 then
  -- uses: reprice
  reprice(a, credited, id .. ':repriced', id .. ':expired', now, balance, told_after)
end
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told_after)
end
local signals = notice(a, balance + credited, now, charge)

-- write
-- uses: tell
tell(KEYS[2], shard, KEYS[4], now, told)
emit(KEYS[2], shard, 'expire', id .. ':expired', now, charge, h[H_HELD], cost, balance, paid, usage,
  string.sub(hold, offset_of_facts(h)), signals)
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
tell(KEYS[2], shard, KEYS[4], now, told_after)
store({ KEYS[3], pack_shard(shard), KEYS[4], pack_account(a) }, scopes, 6, mask)
call('SET', KEYS[5], spack(ENDED, EXPIRED, n_marks, #paid / 2, h[H_LIMITS], n, h[H_MASK], charge, h[H_HELD],
    h[H_RESERVED_AT], now, epoch, seq)
  .. spack('<' .. rep('d', #paid), unpack(paid))
  .. spack('<' .. rep('BBIddd', h[H_LIMITS]), unpack(limits))
  .. marks .. used, 'PX', TOMBSTONE_TTL_MS)
call('ZREM', KEYS[1], id)
return { 'expired', charge, balance, epoch, seq, 0 }
