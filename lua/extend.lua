#!lua flags=allow-oom
-- extend: keeps a hold alive while its answer runs: new deadline, new checkpoint, and a larger hold
-- if the estimate has grown and the wallet can pay for it.
--
-- KEYS[1] due
-- KEYS[2] out
-- KEYS[3] shard
-- KEYS[4] account
-- KEYS[5] reservation
-- KEYS[6] project  if the mask has 1; else the key
-- KEYS[7] key  if the mask has 1 and 2
-- ARGV[1] head  <ddddddB: now_ms (0: the ledger's clock), seen_epoch, seen_count, extend_no (from 1, rising), tokens,
--               ttl_ms, mask of scopes given
-- ARGV[2] reservation_id
-- ARGV[3] estimate  vector of the complete request
-- ARGV[4] checkpoint  vector of what has been used
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   unknown_reservation
--   settled, released, expired, settled_late  charged_nano, balance_nano, epoch, seq, replayed (1)
--   bad_rate, bad_quantity, unknown_shape, too_large
--   wrong_scopes  ids: the hold's limits count in records that were not given
--   not_grown  held_nano, available_nano, deadline_ms, reason, account_rev; the reason: wallet_killed (the answer is to be cut),
--              wallet_frozen, insufficient_credits, credit_held, spend_limit, rate_limit; or `recorded`
--   extended  held_nano, available_nano, deadline_ms, account_rev
--
-- writes: reservation, due; and when the hold grows, account and scope records, and out and shard where
--         time has done something; for credit_held the account's mark that growth is wanted.

-- uses: whole, clock, read, open_shard, read_account, pack_account, read_scopes, store, rate
-- uses: credit, allocate, count_more

-- read
local head = { sunpack('<ddddddB', ARGV[1]) }
local id, estimate, checkpoint = ARGV[2], ARGV[3], ARGV[4]
if not whole(head) or #id == 0 or #id > MAX_ID or head[4] == 0 or head[6] == 0 then
  return { 'bad_arguments' }
end
local values = read(3)
local shard, closed = open_shard(values[1], head[2], head[3])
if not shard then return { closed } end
if not values[2] then return { 'unknown_account' } end
call('ZCARD', KEYS[1]) -- its type
local now, mask = clock(head[1]), head[7]
local a, told = read_account(values[2]), {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end
local raw = values[3]

-- decide
if not raw then return { 'unknown_reservation' } end
if byte(raw, 1) ~= PENDING then
  local e = { sunpack(ENDED, raw) }
  local _, _, balance = credit(a, 0, now)
  -- uses: OUTCOMES
  return { OUTCOMES[byte(raw, 1)], e[E_CHARGED], balance, e[E_EPOCH], e[E_SEQ], 1 }
end
local h = { sunpack(HOLD, raw) }
local n = h[H_UNITS]
if #estimate ~= 8 * n or #checkpoint ~= 8 * n then return { 'bad_arguments' } end
local limits_at = offset_of_limits(h)
local marks_at = offset_of_marks(h)
local estimate_at, rows_at = offset_of_estimate(h), offset_of_rows(h)
local meter, sketch
if h[H_TIERED] > 0 then
  -- uses: read_marks
  local marks = read_marks(raw, marks_at, h[H_TIERED])
  -- uses: leave_periods
  leave_periods(a, h, raw, marks)
  meter, sketch = { a = a, mode = 'hold', marks = marks }, { a = a, mode = 'hold', marks = marks }
end
local total, wrong = rate(raw, rows_at, h[H_ROWS], estimate, 1, n, nil, meter)
if not total then return { wrong } end
local _, wrong_checkpoint = rate(raw, rows_at, h[H_ROWS], checkpoint, 1, n, nil, sketch)
if wrong_checkpoint then return { wrong_checkpoint } end
if bit.band(h[H_MASK], bit.bnot(mask)) ~= 0 then
  local at = offset_of_ids(h)
  return { 'wrong_scopes', string.sub(raw, at, at + h[H_IDS] - 1) }
end
local available, payable = credit(a, h[H_BITS], now)
if head[4] <= h[H_EXTEND_NO] then
  if total > h[H_HELD] then return { 'not_grown', h[H_HELD], available, h[H_DEADLINE], 'recorded', a[ACCOUNT_REV] } end
  return { 'extended', h[H_HELD], available, h[H_DEADLINE], a[ACCOUNT_REV] }
end
local growth, more = total - h[H_HELD], head[5] - h[H_TOKENS]
local reason, scopes = nil, {}
local limits = { sunpack('<' .. rep('BBIddd', h[H_LIMITS]), raw, limits_at) }
limits[#limits] = nil
if growth < 0 then growth = 0 end
if more < 0 then more = 0 end
if a[STATUS] == KILLED then
  reason = 'wallet_killed'
elseif growth > 0 and a[STATUS] ~= 0 then
  reason = 'wallet_frozen'
elseif growth > 0 and growth > available then
  reason = growth > payable - h[H_HELD] and 'insufficient_credits' or 'credit_held'
end
if growth > 0 or more > 0 then scopes = read_scopes(a, values, 4, mask) end
local full = count_more(scopes, limits, growth, more)
reason = reason or full
local deadline, grown = now + head[6], not reason and (growth > 0 or more > 0)
local body = string.sub(raw, rows_at)
local same = string.sub(raw, offset_of_allocations(h), marks_at - 1) -- allocations and limits
h[H_DEADLINE], h[H_EXTEND_NO] = deadline, head[4]
if grown then
  local allocations = { sunpack('<' .. rep('dd', h[H_ALLOCATIONS]), raw, offset_of_allocations(h)) }
  allocations[#allocations] = nil
  if meter then
    -- uses: count_periods
    count_periods(a, meter)
  end
  if growth > 0 then allocate(a, growth, h[H_BITS], now, allocations) end
  same = spack('<' .. rep('d', #allocations), unpack(allocations))
    .. spack('<' .. rep('BBIddd', h[H_LIMITS]), unpack(limits))
  h[H_ALLOCATIONS], h[H_HELD], h[H_TOKENS] = #allocations / 2, h[H_HELD] + growth, h[H_TOKENS] + more
  available = available - growth
else
  estimate = string.sub(raw, estimate_at, estimate_at + 8 * n - 1)
end
local hold = spack(HOLD, unpack(h, 1, H_TOKENS)) .. same
  .. string.sub(raw, marks_at, estimate_at - 1) .. estimate .. checkpoint .. body

-- write
call('ZADD', KEYS[1], deadline, id)
if grown then
  local pairs = { KEYS[4], pack_account(a), KEYS[5], hold }
  if #told > 0 then
    -- uses: tell
    tell(KEYS[2], shard, KEYS[4], now, told)
    pairs[5], pairs[6] = KEYS[3], pack_shard(shard)
  end
  store(pairs, scopes, 6, mask)
elseif reason == 'credit_held' then -- the mark alone: what else was read of the account may not be kept
  local mark, raw_account = spack('<d', now + GROWTH_MARK_MS), values[2]
  call('MSET', KEYS[5], hold, KEYS[4], string.sub(raw_account, 1, POSITION_OF_GROWTH_WANTED - 1) .. mark
    .. string.sub(raw_account, POSITION_OF_GROWTH_WANTED + 8))
else
  call('SET', KEYS[5], hold)
end
if reason then return { 'not_grown', h[H_HELD], available, deadline, reason, a[ACCOUNT_REV] } end
return { 'extended', h[H_HELD], available, deadline, a[ACCOUNT_REV] }
