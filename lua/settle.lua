#!lua flags=allow-oom
-- settle: replaces a hold by the actual charge and gives the rest back, whatever became of the hold.
--
-- With no hold and no tombstone it still charges, unless it comes too late to be sure that no
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

-- A plain settle: flat prices, a hold that rests on the wallet's one grant and covers the charge, no limits, no
-- signals. It pays for nothing else. Whatever is not plain falls through to the general path, which begins again:
-- nothing has been written by then.
-- uses: clock, read, rate
local rows, costs, values = ARGV[4], ARGV[5], nil
if #KEYS == 5 and #rows == 9 * #ARGV[3] / 4 then
  local now, epoch, seen, tokens, reserved_at, _, mask = sunpack('<dddddIB', ARGV[1])
  local id, used = ARGV[2], ARGV[3]
  local n = #used / 8
  values = read(3)
  local raw_shard, raw, hold = values[1], values[2], values[3]
  if raw_shard and raw and hold and mask == 0 and n % 1 == 0 and n <= 255 and (costs == '' or #costs == #rows)
    and #id > 0 and #id <= MAX_ID
    and now >= 0 and now <= MAX_AMOUNT and now % 1 == 0 and epoch >= 0 and epoch % 1 == 0
    and seen >= 0 and seen <= MAX_AMOUNT and seen % 1 == 0 and tokens >= 0 and tokens <= MAX_AMOUNT and tokens % 1 == 0
    and reserved_at >= 0 and reserved_at <= MAX_AMOUNT and reserved_at % 1 == 0 and byte(hold, 1) == PENDING then
    local layout, state, _, shard_epoch, last_seq, acked_seq, acked_epoch = sunpack(SHARD, raw_shard)
    local _, _, n_grants, _, _, _, _, n_signals = byte(raw, 1, 8)
    local _, n_tiered, n_allocations, n_limits, n_units, hold_mask, rows_size, _, _, _, held_nano, held_at, _, _, _,
      held_of, on_grant = sunpack('<BBBBBBHHHIddddddd', hold)
    local rows_at = 1 + HOLD_SIZE + ALLOCATION_SIZE + 16 * n_units
    if layout == 1 and state == 0 and epoch <= shard_epoch and (epoch < shard_epoch or seen <= last_seq + 1)
      and n_grants == 1 and n_signals == 0 and n_tiered == 0 and n_allocations == 1 and n_limits == 0 and hold_mask == 0
      and rows_size == #rows and sub(hold, rows_at, rows_at + rows_size - 1) == rows then
      local debt, held, held_credit, open, granted, settled = sunpack('<dddddd', raw, POSITION_OF_OVERDRAFT)
      local sweep_at, _, _, _, _, _, no, remaining, grant_held, effective_at, expires_at =
        sunpack('<ddBBHIddddd', raw, POSITION_OF_SWEEP_AT)
      call('ZCARD', KEYS[1]) -- its type
      if now == 0 then now = clock(0) end
      local usage, cost = { nil, nil, nil, nil, nil, nil, nil, nil }, false
      if costs ~= '' then cost = rate(costs, 1, rows_size, used, 1, n) end
      local charge = rate(rows, 1, rows_size, used, 1, n, usage)
      if charge and cost ~= nil and charge > 0 and charge <= on_grant and no == held_of and now < sweep_at
        and effective_at <= now and (expires_at == 0 or sweep_at <= expires_at) and settled + charge <= MAX_AMOUNT then
        local seq, balance = last_seq + 1, remaining - charge - debt
        -- write
        call('XADD', KEYS[2], format('%.0f-%.0f', shard_epoch, seq), 's', cmsgpack.pack({ 'settle', id .. ':settled', now,
          charge, held_nano, cost, balance, { no, charge }, usage }), 'f', ARGV[6])
        call('MSET', KEYS[3], spack(SHARD, 1, 0, 0, shard_epoch, seq, acked_seq, acked_epoch),
          KEYS[4], sub(raw, 1, POSITION_OF_HELD - 1) .. spack('<ddddd', held - held_nano, held_credit, open - 1, granted, settled + charge)
            .. sub(raw, POSITION_OF_HELD + 40, POSITION_OF_FIRST_REMAINING - 1) .. spack('<dd', remaining - charge, grant_held - on_grant)
            .. sub(raw, POSITION_OF_FIRST_REMAINING + 16))
        call('SET', KEYS[5], spack(ENDED, SETTLED_STATE, 0, 0, 0, n, 0, charge, held_nano, held_at, now, shard_epoch, seq)
          .. used, 'PX', TOMBSTONE_TTL_MS)
        call('ZREM', KEYS[1], id)
        return { 'settled', charge, balance, shard_epoch, seq, 0 }
      end
    end
  end
end


-- general
-- uses: whole, open_shard, read_account, pack_account, read_scopes, store, credit, take, spend_hold
-- uses: notice, count_out, emit
-- read
local head = { sunpack('<dddddIB', ARGV[1]) }
local id, used, facts = ARGV[2], ARGV[3], ARGV[6]
local n = #used / 8
if not whole(head) or #id == 0 or #id > MAX_ID or floor(n) ~= n or n > 255
  or not (#costs == 0 or #costs == 18 * n) then
  return { 'bad_arguments' }
end
local usage = { nil, nil, nil, nil, nil, nil, nil, nil }
values = values or read(3)
local shard, closed = open_shard(values[1], head[2], head[3])
if not shard then return { closed } end
if not values[2] then return { 'unknown_account' } end
call('ZCARD', KEYS[1]) -- its type
local now, tokens, mask = clock(head[1]), head[4], head[7]
local a, told, told_after = read_account(values[2]), {}, {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end
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
  local h = { sunpack(HOLD, earlier) }
  local marks_at = offset_of_marks(h)
  local at = offset_of_rows(h)
  if h[H_ROWS] ~= #rows or string.find(earlier, rows, at, true) ~= at then
    return { 'exists_with_different_prices' }
  end
  if bit.band(h[H_MASK], bit.bnot(mask)) ~= 0 then
    at = offset_of_ids(h)
    return { 'wrong_scopes', string.sub(earlier, at, at + h[H_IDS] - 1) }
  end
  if meter then
    -- uses: read_marks
    meter.marks = read_marks(earlier, marks_at, h[H_TIERED])
    meter.left = { sunpack('<' .. rep('d', h[H_UNITS]), earlier, offset_of_estimate(h)) }
  end
  charge, wrong = rate(rows, 1, #rows, used, 1, n, usage, meter)
  if not charge then return { wrong } end
  if meter then
    -- uses: count_periods
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
  local e = { sunpack(ENDED, earlier) }
  local marks_at = ended_offset_of_marks(e)
  local at = ended_offset_of_usage(e)
  if state ~= EXPIRED then
    -- uses: OUTCOMES
    local word = OUTCOMES[state]
    if state ~= RELEASED and string.sub(earlier, at) ~= used then
      word = 'exists_with_different_usage'
    end
    local _, _, balance = credit(a, 0, now)
    return { word, e[E_CHARGED], balance, e[E_EPOCH], e[E_SEQ], 1, OUTCOMES[state] }
  end
  if meter then
    if at + #used ~= #earlier + 1 then return { 'exists_with_different_prices' } end
    -- uses: read_marks
    meter.mode, meter.marks = 'late', read_marks(earlier, marks_at, e[E_TIERED])
    meter.was = { sunpack('<' .. rep('d', n), earlier, at) }
  end
  charge, wrong = rate(rows, 1, #rows, used, 1, n, usage, meter)
  if not charge then return { wrong } end
  if meter then
    -- uses: count_periods
    count_periods(a, meter)
    charge = charge + sunpack('<d', earlier, at - CREDITED_SIZE) -- what its expiry credited stays credited
    if charge < 0 then charge, credited = 0, 0 - charge end
  end
  outcome, kind, amount = 'settled_late', 'settle_late', charge - e[E_CHARGED]
  held, reserved_at = e[E_HELD], e[E_RESERVED_AT]
  if cost then -- what the expiry's event said of the cost, it said by the same rows
    local said = at + #used == #earlier + 1 and rate(costs, 1, #costs, earlier, at, n)
    cost = cost - (said or 0)
  end
  scopes = read_scopes(a, values, 4, mask)
  -- uses: count_late
  count_late(scopes, e, earlier, charge, tokens)
  if amount >= 0 then
    take(a, amount, head[6], now, paid)
  else
    -- uses: give_back
    give_back(a, 0 - amount, e, earlier, now, paid)
  end
  a[SETTLED] = a[SETTLED] + amount
else
  if now - reserved_at > SETTLE_MAX_AGE_MS then return { 'too_old', now } end
  if meter then meter.opens, meter.now = true, reserved_at end
  charge, wrong = rate(rows, 1, #rows, used, 1, n, usage, meter)
  if not charge then return { wrong } end
  if meter then
    -- uses: count_periods
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
  -- uses: reprice
  reprice(a, credited, adjustment, event_id, now, balance, told_after)
end
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told_after)
end
local signals = notice(a, balance + credited, now, amount or charge)

-- write
if #told > 0 then
  -- uses: tell
  tell(KEYS[2], shard, KEYS[4], now, told)
end
emit(KEYS[2], shard, kind, event_id, now, amount or charge, held, cost, balance, paid, usage, facts, signals)
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
if #told_after > 0 then
  -- uses: tell
  tell(KEYS[2], shard, KEYS[4], now, told_after)
end
store({ KEYS[3], pack_shard(shard), KEYS[4], pack_account(a), nil, nil, nil, nil }, scopes, 6, mask)
call('SET', KEYS[5], spack(ENDED, outcome == 'settled' and SETTLED_STATE or SETTLED_LATE, 0, 0, 0, n, 0,
  charge, held, reserved_at, now, epoch, seq) .. used, 'PX', TOMBSTONE_TTL_MS)
if state == PENDING then call('ZREM', KEYS[1], id) end
return { outcome, charge, balance, epoch, seq, 0 }
