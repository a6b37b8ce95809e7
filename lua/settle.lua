#!lua flags=allow-oom
-- settle: replaces a hold by the actual charge and gives the rest back, whatever became of the hold.
--
-- With no hold and no tombstone it charges all the same, unless it comes too late to be sure that no
-- tombstone was there. On an expired one it charges, or gives back, the difference, once.
--
-- KEYS[1] due
-- KEYS[2] out
-- KEYS[3] shard
-- KEYS[4] account
-- KEYS[5] reservation
-- KEYS[6] project  if the mask has 1; else the key
-- KEYS[7] key  if the mask has 1 and 2
-- ARGV[1] head  <dddddIB: now_ms (0: the ledger's clock), seen_epoch, seen_count, tokens, reserved_at_ms,
--               scope bits, mask of scopes given
-- ARGV[2] reservation_id
-- ARGV[3] used  vector
-- ARGV[4] price rows  as given to reserve
-- ARGV[5] cost rows
-- ARGV[6] facts
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   bad_rate, bad_quantity, unknown_shape, too_large
--   exists_with_different_prices
--   wrong_scopes  ids: the hold's limits count in records that were not given
--   too_old  now_ms: nothing is left that could tell whether this was charged
--   total_too_large
--   exists_with_different_usage  charged_nano, balance_nano, epoch, seq, 1, outcome: settled with other quantities
--   settled, settled_late, released  charged_nano, balance_nano, epoch, seq, replayed (0 or 1)
--
-- writes: out, shard, account, reservation (tombstone), due, and the scope records of the hold.

-- read
local head = { sunpack('<dddddIB', ARGV[1]) }
local id, used, rows, costs, facts = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local n = #used / 8
if not whole(head) or #id == 0 or #id > MAX_ID or floor(n) ~= n or n > 255
  or not (#costs == 0 or #costs == 18 * n) then
  return { 'bad_arguments' }
end
local usage = { nil, nil, nil, nil, nil, nil, nil, nil }
local values = read(3)
local shard, closed = open_shard(values[1], head[2], head[3])
if not shard then return { closed } end
if not values[2] then return { 'unknown_account' } end
call('ZCARD', KEYS[1]) -- its type
local now, tokens, mask = clock(head[1]), head[4], head[7]
local a, told, told_after = read_account(values[2]), {}, {}
if now >= a[SWEEP_AT] then catch_up(a, now, told) end
local earlier = values[3]
local state = earlier and byte(earlier, 1)

-- decide
local outcome, kind, amount = 'settled', 'settle', nil
local scopes, paid, held, reserved_at = {}, {}, 0, head[5]
local meter = #rows ~= 18 * n and { a = a, mode = 'charge', marks = nil, left = nil, moves = nil, next_marks = nil }
local charge, wrong, credited, cost = nil, nil, 0, false
if #costs > 0 then
  cost, wrong = rate(costs, 1, #costs, used, 1, n)
  if not cost then return { wrong } end
end
if state == PENDING then
  local h = { sunpack(PENDING_HEADER, earlier) }
  local marks_at = h[H_NEXT] + 16 * h[H_ALLOCATIONS] + LIMIT_SIZE * h[H_LIMITS]
  local at = marks_at + 16 * (h[H_TIERED] + h[H_UNITS])
  if h[H_ROWS] ~= #rows or string.find(earlier, rows, at, true) ~= at then
    return { 'exists_with_different_prices' }
  end
  if bit.band(h[H_MASK], bit.bnot(mask)) ~= 0 then
    at = at + h[H_ROWS] + h[H_COSTS]
    return { 'wrong_scopes', string.sub(earlier, at, at + h[H_IDS] - 1) }
  end
  if meter then
    meter.marks = read_marks(earlier, marks_at, h[H_TIERED])
    meter.left = { sunpack('<' .. rep('d', h[H_UNITS]), earlier, marks_at + 16 * h[H_TIERED]) }
  end
  charge, wrong = rate(rows, 1, #rows, used, 1, n, usage, meter)
  if not charge then return { wrong } end
  if meter then
    count_periods(a, meter)
    if charge < 0 then charge, credited = 0, 0 - charge end
  end
  if h[H_LIMITS] > 0 then
    scopes = read_scopes(a, values, 4, mask)
    count_out(scopes, h, earlier, charge, 1, tokens)
  end
  held, reserved_at = h[H_HELD], h[H_RESERVED_AT]
  paid = spend_hold(a, h, earlier, charge, now)
elseif state then
  local e = { sunpack(ENDED_HEADER, earlier) }
  local marks_at = e[E_NEXT] + 16 * e[E_ALLOCATIONS] + LIMIT_SIZE * e[E_LIMITS]
  local at = marks_at + 16 * e[E_TIERED] + (e[E_TIERED] > 0 and 8 or 0)
  if state ~= EXPIRED then
    local word = OUTCOMES[state]
    if state ~= RELEASED and string.sub(earlier, at) ~= used then
      word = 'exists_with_different_usage'
    end
    local _, _, balance = credit(a, 0, now)
    return { word, e[E_CHARGED], balance, e[E_EPOCH], e[E_SEQ], 1, OUTCOMES[state] }
  end
  if meter then
    if at + #used ~= #earlier + 1 then return { 'exists_with_different_prices' } end
    meter.mode, meter.marks = 'late', read_marks(earlier, marks_at, e[E_TIERED])
    meter.was = { sunpack('<' .. rep('d', n), earlier, at) }
  end
  charge, wrong = rate(rows, 1, #rows, used, 1, n, usage, meter)
  if not charge then return { wrong } end
  if meter then
    count_periods(a, meter)
    charge = charge + sunpack('<d', earlier, at - 8) -- what its expiry credited stays credited
    if charge < 0 then charge, credited = 0, 0 - charge end
  end
  outcome, kind, amount = 'settled_late', 'settle_late', charge - e[E_CHARGED]
  held, reserved_at = e[E_HELD], e[E_RESERVED_AT]
  if cost then -- what the expiry's event said of the cost, it said by the same rows
    local said = at + #used == #earlier + 1 and rate(costs, 1, #costs, earlier, at, n)
    cost = cost - (said or 0)
  end
  scopes = read_scopes(a, values, 4, mask)
  count_late(scopes, e, earlier, charge, tokens)
  if amount >= 0 then
    take(a, amount, head[6], now, paid)
  else
    give_back(a, 0 - amount, e, earlier, now, paid)
  end
  a[SETTLED] = a[SETTLED] + amount
else
  if now - reserved_at > SETTLE_MAX_AGE_MS then return { 'too_old', now } end
  if meter then meter.opens, meter.now = true, reserved_at end
  charge, wrong = rate(rows, 1, #rows, used, 1, n, usage, meter)
  if not charge then return { wrong } end
  if meter then
    count_periods(a, meter)
    if charge < 0 then charge, credited = 0, 0 - charge end
  end
  take(a, charge, head[6], now, paid)
  a[SETTLED] = a[SETTLED] + charge
end
if a[SETTLED] > MAX_AMOUNT or a[OVERDRAFT] > MAX_AMOUNT then return { 'total_too_large' } end
local _, _, balance = credit(a, 0, now)
local event_id = id .. ':' .. outcome
if credited > 0 then
  local adjustment = id .. (outcome == 'settled' and ':repriced' or ':repriced_late')
  reprice(a, credited, adjustment, event_id, now, balance, told_after)
end
if now >= a[SWEEP_AT] then catch_up(a, now, told_after) end
local signals = notice(a, balance + credited, now, amount or charge)

-- write
if #told > 0 then tell(KEYS[2], shard, KEYS[4], now, told) end
emit(KEYS[2], shard, kind, event_id, now, amount or charge, held, cost, balance, paid, usage, facts, signals)
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
if #told_after > 0 then tell(KEYS[2], shard, KEYS[4], now, told_after) end
store({ KEYS[3], pack_shard(shard), KEYS[4], pack_account(a), nil, nil, nil, nil }, scopes, 6, mask)
call('SET', KEYS[5], spack(ENDED_HEADER, outcome == 'settled' and SETTLED_STATE or SETTLED_LATE, 0, 0, 0, n, 0,
  charge, held, reserved_at, now, epoch, seq) .. used, 'PX', TOMBSTONE_TTL_MS)
if state == PENDING then call('ZREM', KEYS[1], id) end
return { outcome, charge, balance, epoch, seq, 0 }
