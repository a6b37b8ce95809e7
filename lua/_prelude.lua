-- What the scripts share: names of the records' fields, checks, rating, and the wallet's
-- arithmetic. The loader (gateway/ledger/scripts.py) puts in front of each script the blocks that
-- it uses, with the values of the constants in place of their names: so blank lines stand between
-- blocks and nowhere else, and a constant is `local NAME, … = number or string, …`. A block with a
-- line `rare:` costs nothing where it is not used: the loader defines it at its first use.
--
-- Law: a record is one flat array: one unpack reads it, one pack writes it (layouts in
-- README.md). Nothing here but `emit` writes. Functions that refuse return nil and a word; the
-- line `answers:` lists the words, and a test reads it. Bounds are those of
-- gateway/domain/money.py and reservation.py (a test compares them).

local call, sunpack, spack = redis.call, struct.unpack, struct.pack
local byte, rep, floor, format = string.byte, string.rep, math.floor, string.format

local MAX_AMOUNT = 9000000000000000
local MAX_QUANTITY = 1000000000000
local MAX_RATE = 1000000000000 -- whole nano-credits a unit
local MAX_GRANTS = 64
local MAX_THRESHOLDS = 8 -- of a low balance
local MAX_ALLOWANCES = 16
local MAX_ID = 200
local TOMBSTONE_TTL_MS = 3600000
local SETTLE_MAX_AGE_MS = 3300000

-- Shard record: index of each field.
local SHARD = '<BBHdddd'
local STATE, EPOCH, LAST_SEQ, ACKED_SEQ, ACKED_EPOCH = 2, 4, 5, 6, 7

-- Account record: header, then grants of ten fields, periods of seven, allowances of twelve,
-- signals of six or none, counters of five.
local STATUS, N_GRANTS, N_COUNTERS, N_PERIODS, N_ALLOWANCES, BILLING_DAY = 2, 3, 4, 5, 6, 7
local N_SIGNALS, ACCOUNT_REV, CREDIT_LIMIT, OVERDRAFT = 8, 9, 10, 11
local HELD, HELD_CREDIT, OPEN, GRANTED, SETTLED = 12, 13, 14, 15, 16
local EXPIRED_CREDIT, VOIDED, ADJUSTED, NEXT_GRANT_NO, SWEEP_AT, HEADER = 17, 18, 19, 20, 21, 21
-- A grant's fields, counted from its first index.
local CATEGORY, PRIORITY, BITS, NO, REMAINING, GRANT_HELD = 0, 1, 3, 4, 5, 6
local EFFECTIVE_AT, EXPIRES_AT = 7, 8
-- A period's fields, likewise: P_BEFORE is the start of the period before.
local P_START, P_END, P_USED, P_HELD, P_BEFORE, P_USED_BEFORE = 1, 2, 3, 4, 5, 6
-- An allowance's.
local A_KIND, A_CATEGORY, A_PRIORITY, A_DAY, A_BITS, A_AMOUNT = 1, 2, 3, 4, 5, 6
local A_ROLLOVER, A_START, A_END, A_GRANT, A_CARRY = 7, 8, 9, 10, 11
-- The signals'; first comes the balance below which something is crossed.
local S_TO, S_AT, S_MARK, S_HOUR_END, S_PACKED = 1, 2, 3, 4, 5
-- A counter's fields.
local WINDOW, USED, COUNTER_HELD, PREVIOUS = 1, 2, 3, 4

-- Measures of a limit.
local SPEND, REQUESTS, TOKENS, CONCURRENT = 1, 2, 3, 4

-- Reservation record, pending and ended.
local PENDING_HEADER = '<BBBBBBHHHIddddd'
local ENDED_HEADER = '<BBBBBBdddddd'
local H_TIERED, H_ALLOCATIONS, H_LIMITS, H_UNITS, H_MASK = 2, 3, 4, 5, 6
local H_ROWS, H_COSTS, H_IDS = 7, 8, 9
local H_BITS, H_HELD, H_RESERVED_AT, H_DEADLINE, H_EXTEND_NO, H_TOKENS = 10, 11, 12, 13, 14, 15
local H_NEXT = 16 -- not a field: where the allocations begin
local E_TIERED, E_ALLOCATIONS, E_LIMITS, E_CHARGED, E_HELD, E_RESERVED_AT = 2, 3, 4, 7, 8, 9
local E_EPOCH, E_SEQ, E_NEXT = 11, 12, 13
local LIMIT_SIZE = 30 -- of one <BBIddd of a hold
local PENDING, SETTLED_STATE, RELEASED, EXPIRED, SETTLED_LATE = 1, 2, 3, 4, 5
local OUTCOMES = { 'pending', 'settled', 'released', 'expired', 'settled_late' }

-- Whether all are whole numbers within 0 … MAX_AMOUNT. NaN fails every comparison.
local function whole(numbers)
  for i = 1, #numbers do
    local x = numbers[i]
    if not (x >= 0 and x <= MAX_AMOUNT and floor(x) == x) then return false end
  end
  return true
end

-- Unix ms by the ledger's clock, asked once per script; tests supply it.
local function clock(supplied)
  if supplied > 0 then return supplied end
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The values of KEYS[first] and after; false where there is none. MGET calls a key of another
-- type absent, so that one is asked again, and fails before anything was written.
local function read(first)
  local values = call('MGET', unpack(KEYS, first))
  for i = 1, #values do
    if not values[i] then call('GET', KEYS[first + i - 1]) end
  end
  return values
end

-- The shard record, unless the shard cannot serve. `seen` is one more than the highest seq that
-- the caller knows of in `epoch`.
-- answers: unknown_account, went_back, wrong_layout, shard_frozen
local function open_shard(raw, epoch, seen)
  if not raw then return nil, seen > 0 and 'went_back' or 'unknown_account' end
  local shard = { sunpack(SHARD, raw) }
  if shard[1] ~= 1 then return nil, 'wrong_layout' end
  if shard[EPOCH] < epoch or (shard[EPOCH] == epoch and shard[LAST_SEQ] + 1 < seen) then
    return nil, 'went_back'
  end
  if shard[STATE] ~= 0 then return nil, 'shard_frozen' end
  return shard
end

local function account_format(n_grants, n_counters, n_periods, n_allowances, n_signals)
  local middle = ''
  if n_periods + n_allowances > 0 then
    middle = rep('Idddddd', n_periods) .. rep('IBBBBIdddddd', n_allowances)
  end
  if n_signals > 0 then middle = middle .. 'dddddc' .. 8 * (n_signals - 5) end
  return '<BBBBBBBBddddddddddddd' .. rep('BBHIdddddd', n_grants) .. middle .. rep('Idddd', n_counters)
end

local function read_account(raw)
  local _, _, n_grants, n_counters, n_periods, n_allowances, _, n_signals = byte(raw, 1, 8)
  local a = { sunpack(account_format(n_grants, n_counters, n_periods, n_allowances, n_signals), raw) }
  a[#a] = nil -- unpack's last value is the position after it
  return a
end

local function pack_account(a)
  return spack(
    account_format(a[N_GRANTS], a[N_COUNTERS], a[N_PERIODS], a[N_ALLOWANCES], a[N_SIGNALS]), unpack(a))
end

local function read_scope(raw)
  if not raw then return { 1, 0, 0, 0 } end
  local s = { sunpack('<BBBB' .. rep('Idddd', byte(raw, 3)), raw) }
  s[#s] = nil
  return s
end

local function pack_scope(s)
  return spack('<BBBB' .. rep('Idddd', s[3]), unpack(s))
end

-- The records that limits count in, by scope: 0 the account, 1 project, 2 key. `mask` says which
-- of them stand in `values` from `at` on: 1 project, 2 key. `create`: make the missing ones.
local function read_scopes(a, values, at, mask, create)
  local scopes = { [0] = a }
  for scope = 1, 2 do
    if mask == scope or mask == 3 then
      if values[at] or create then scopes[scope] = read_scope(values[at]) end
      at = at + 1
    end
  end
  return scopes
end

-- Index of a counter in its record, or nil.
local function find_counter(record, scope, id)
  local first, count = 5, record[3]
  if scope == 0 then
    first = HEADER + 1 + 10 * record[N_GRANTS] + 7 * record[N_PERIODS] + 12 * record[N_ALLOWANCES]
    if record[N_SIGNALS] > 0 then first = first + 6 end
    count = record[N_COUNTERS]
  end
  for c = first, first + 5 * (count - 1), 5 do
    if record[c] == id then return c end
  end
end

-- MSET of the given pairs and of the scope records, which stand in KEYS from `at` on.
local function store(pairs, scopes, at, mask)
  for scope = 1, 2 do
    if mask == scope or mask == 3 then
      if scopes[scope] then
        pairs[#pairs + 1] = KEYS[at]
        pairs[#pairs + 1] = pack_scope(scopes[scope])
      end
      at = at + 1
    end
  end
  call('MSET', unpack(pairs))
end

-- Start and end of the period of `now`, UTC, in Unix ms. A month begins on `day`, or on the last day
-- of a shorter month.
local function borders(kind, now, day)
  if kind == 6 then return 0, MAX_AMOUNT end
  if kind < 5 then
    local length, from = kind == 1 and 60000 or kind == 2 and 3600000 or 86400000, 0
    if kind == 4 then length, from = 604800000, 345600000 end -- 5 January 1970 was a Monday
    local start = now - (now - from) % length
    return start, start + length
  end
  local function first(month) -- days from 1970 to the first of a month, counted from January of year 0
    local year, nth = floor(month / 12), (month + 10) % 12 -- nth from March, so leap days come last
    if nth > 9 then year = year - 1 end
    return 365 * year + floor(year / 4) - floor(year / 100) + floor(year / 400)
      + floor((153 * nth + 2) / 5) - 719468
  end
  local function start(month)
    local begins = first(month)
    return begins + math.min(day, first(month + 1) - begins) - 1
  end
  local today = floor(now / 86400000)
  local month = 23640 + floor(today / 30.436875) -- this one or a neighbour
  while start(month) > today do month = month - 1 end
  while start(month + 1) <= today do month = month + 1 end
  return start(month) * 86400000, start(month + 1) * 86400000
end

-- Puts fields into a flat record.
local function insert(a, at, fields)
  local n = #fields
  for i = #a, at, -1 do a[i + n] = a[i] end
  for i = 1, n do a[at + i - 1] = fields[i] end
end

-- A period's counter, and the field that counts the period which began at `start`; nil for one of
-- neither this period nor the one before.
local function find_period(a, id, start)
  local first = HEADER + 1 + 10 * a[N_GRANTS]
  for p = first, first + 7 * (a[N_PERIODS] - 1), 7 do
    if a[p] == id then
      if a[p + P_START] == start then return p, p + P_USED end
      return p, a[p + P_BEFORE] == start and p + P_USED_BEFORE or nil
    end
  end
end

-- A period's counter in the period of `now`; made or moved on if need be, never moved back.
local function open_period(a, id, kind, now)
  local p = find_period(a, id, -1)
  if p and now < a[p + P_END] then return p end
  local start, ends = borders(kind, now, a[BILLING_DAY])
  if not p then
    p = HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS]
    insert(a, p, { id, start, ends, 0, 0, 0, 0 })
    a[N_PERIODS] = a[N_PERIODS] + 1
    return p
  end
  a[p + P_BEFORE], a[p + P_USED_BEFORE] = a[p + P_START], a[p + P_USED]
  a[p + P_START], a[p + P_END], a[p + P_USED], a[p + P_HELD] = start, ends, 0, 0
  return p
end

-- C(x1) − C(x0) of a tiered row in nano- and pico-credits (README, Rating); nil when too large.
local function climb(shape, size, tiers, x0, x1)
  if x1 < x0 then
    local nano, pico = climb(shape, size, tiers, x1, x0)
    if not nano then return nil end
    return 0 - nano, 0 - pico
  end
  if x1 == x0 then return 0, 0 end
  if shape == 3 then
    local over0, over1 = math.fmod(x0, size), math.fmod(x1, size)
    local begun = (x1 - over1) / size - (x0 - over0) / size + (over1 > 0 and 1 or 0) - (over0 > 0 and 1 or 0)
    return begun * tiers[2], begun * tiers[3]
  elseif shape == 4 then
    return x0 == 0 and tiers[4] or 0, 0
  end
  local nano, pico, lower, from = 0, 0, 0, nil
  for t = 1, #tiers, 4 do
    local upper, whole_rate, rest_rate, flat = tiers[t], tiers[t + 1], tiers[t + 2], tiers[t + 3]
    if upper == 0 then upper = MAX_AMOUNT * 2 end
    if shape == 1 then
      local units = math.min(x1, upper) - math.max(x0, lower)
      if units > 0 then nano, pico = nano + units * whole_rate, pico + units * rest_rate end
      if x0 <= lower then nano = nano + flat end
    else
      if not from and x0 <= upper then from = t end
      if x1 <= upper then
        local all_nano, all_pico = x0 * (whole_rate - tiers[from + 1]), x0 * (rest_rate - tiers[from + 2])
        if math.abs(all_nano) > MAX_AMOUNT or math.abs(all_pico) > MAX_AMOUNT then return nil end
        nano, pico = (x1 - x0) * whole_rate, (x1 - x0) * rest_rate
        if nano > MAX_AMOUNT or pico > MAX_AMOUNT then return nil end
        return nano + all_nano + flat - (x0 > 0 and tiers[from + 3] or 0), pico + all_pico
      end
    end
    if x1 <= upper then break end
    lower = upper
  end
  return nano, pico
end

-- The most that `units` between x0 and x1 can cost, the first of them being unit xh + 1 at most.
local function reach(shape, size, tiers, x0, xh, x1, units)
  units = math.min(units, x1 - x0)
  if units <= 0 then return 0, 0 end
  if shape > 2 then
    local nano, pico = climb(shape, size, tiers, x0, x1)
    local most = shape == 3 and math.ceil(units / size) or 1
    if shape == 4 or nano <= most * tiers[2] and pico <= most * tiers[3] then return nano, pico end
    return most * tiers[2], most * tiers[3]
  end
  local dearest, rise, flats, flat_rise, lower = 0, 0, 0, 0, 0
  local least, least_flat = nil, x0 == 0 and 0 or nil
  for t = 1, #tiers, 4 do
    local upper, price, flat = tiers[t], tiers[t + 1] * 1000 + tiers[t + 2], tiers[t + 3]
    if upper == 0 then upper = MAX_AMOUNT * 2 end
    if upper > x0 then
      dearest = math.max(dearest, price)
      if lower >= x0 then flats = flats + flat end
    end
    if upper >= x0 then -- units before may come to lie in a dearer tier
      least, least_flat = math.min(least or price, price), math.min(least_flat or flat, flat)
      rise, flat_rise = math.max(rise, price - least), math.max(flat_rise, flat - least_flat)
    end
    if x1 <= upper then break end
    lower = upper
  end
  local whole_rate, rest_rate = floor(dearest / 1000), dearest % 1000
  if shape == 1 then return units * whole_rate + flats, units * rest_rate end
  local whole_rise, rest_rise = floor(rise / 1000), rise % 1000
  return units * whole_rate + xh * whole_rise + flat_rise, units * rest_rate + xh * rest_rise
end

-- What a tiered row makes of a quantity, in two limbs; notes where the counter moves. `moved` is
-- what earlier rows of this vector have added to a counter. nil when too large or not fitting.
local function meter_row(meter, k, i, row, tiers, quantity, moved)
  local a, mode, id, included, mark = meter.a, meter.mode, row[5], row[6], 2 * k - 1
  local before, p, field, start, used = moved[id] or 0, nil, nil, nil, nil
  local function x(at) return at > included and at - included or 0 end
  if meter.opens then
    p = open_period(a, id, row[4], meter.now)
    field, start = p + P_USED, a[p + P_START]
  else
    start, used = meter.marks[mark], meter.marks[mark + 1]
    if not start then return nil end
    p, field = find_period(a, id, start)
  end
  local nano, pico, billed
  if mode == 'hold' then -- what it may cost
    local held, current = before, field and field == p + P_USED
    if field then used = a[field] end
    if current then held = held + a[p + P_HELD] end
    local x0, xh, x1 = x(used), x(used + held), x(used + held + quantity)
    nano, pico = reach(row[2], row[8], tiers, x0, xh, x1, quantity)
    billed = quantity > 0 and x1 > x0
    meter.next_marks[mark], meter.next_marks[mark + 1] = start, used + held
    if current then meter.moves[#meter.moves + 1] = { p + P_HELD, quantity } end
    moved[id] = before + quantity
  else
    local counted, first = 0, used
    if field then used = a[field] + before end
    nano, pico = 0, 0
    if mode == 'late' then
      if field then
        counted = meter.was[i]
        nano, pico = climb(row[2], row[8], tiers, x(first), x(first + counted))
      end
    end
    local to = used - counted + quantity
    local more_nano, more_pico = climb(row[2], row[8], tiers, x(used), x(to))
    if not nano or not more_nano then return nil end
    nano, pico = nano + more_nano, pico + more_pico
    billed = quantity > 0 and x(to) > x(used - counted)
    meter.next_marks[mark], meter.next_marks[mark + 1] = start, used
    if field then meter.moves[#meter.moves + 1] = { field, quantity - counted } end
    moved[id] = before + quantity - counted
  end
  local whole_nano = nano + floor(pico / 1000)
  if billed and whole_nano >= 0 and whole_nano < row[7] then return row[7], 0 end
  return nano, pico
end

-- Whole nano-credits of two limbs: the one place where a charge is rounded, up. nil when too large.
local function round_up(nano, pico)
  -- Below the bounds every product and sum was exact; beyond them, only large.
  if pico > MAX_AMOUNT or nano > MAX_AMOUNT then return nil end
  local up = floor(pico / 1000) -- off by one at most where the division rounds: so compare
  if up * 1000 < pico then up = up + 1 end
  if nano + up > MAX_AMOUNT then return nil end
  return nano + up
end

-- Rates a vector by rows of which some have tiers. `meter` says how the periods count:
--   a, mode: hold (the most that it may cost), charge, or late (charge beside what an expiry did)
--   opens, now: the period of that moment, begun if need be; else `marks` says which, and where
--   was: late, the quantities that the expiry charged
-- and is given `next_marks`, and `moves` of the counters for `count_periods`.
-- answers: unknown_shape, bad_quantity, bad_rate, too_large
-- rare: most prices have none
local function rate_tiers(rows, at, size, vector, vector_at, n, usage, meter)
  local q = { sunpack('<' .. rep('d', n), vector, vector_at) }
  local nano, pico, stop, k, moved = 0, 0, at + size, 0, {}
  meter.moves, meter.next_marks = {}, {}
  for i = 1, n do
    local quantity, tiers, row = q[i], nil, nil
    if not (quantity >= 0 and quantity <= MAX_QUANTITY and floor(quantity) == quantity) then
      return nil, 'bad_quantity'
    end
    if at + 18 > stop then return nil, 'unknown_shape' end
    local unit, shape, n_tiers, kind = byte(rows, at, at + 3)
    if shape == 0 then
      tiers, at = { 0, 0, 0, 0 }, at + 18
      tiers[2], tiers[3] = sunpack('<dd', rows, at - 16)
    else
      if shape > 4 or n_tiers == 0 or kind < 1 or kind > 6 or at + 32 + 32 * n_tiers > stop then
        return nil, 'unknown_shape'
      end
      row, tiers = { sunpack('<BBBBIddd', rows, at) }, { sunpack('<' .. rep('d', 4 * n_tiers), rows, at + 32) }
      tiers[#tiers] = nil
      at, k = at + 32 + 32 * n_tiers, k + 1
      if not whole({ row[6], row[7], row[8] }) or row[8] < 1 or not whole(tiers) then return nil, 'bad_rate' end
    end
    for t = 1, #tiers, 4 do
      local whole_rate, rest_rate = tiers[t + 1], tiers[t + 2]
      if not (whole_rate >= 0 and whole_rate <= MAX_RATE and floor(whole_rate) == whole_rate
        and rest_rate >= 0 and rest_rate < 1000 and floor(rest_rate) == rest_rate) then
        return nil, 'bad_rate'
      end
    end
    if usage and quantity > 0 then
      usage[#usage + 1] = unit
      usage[#usage + 1] = quantity
    end
    local more_nano, more_pico = quantity * tiers[2], quantity * tiers[3]
    if row then
      more_nano, more_pico = meter_row(meter, k, i, row, tiers, quantity, moved)
      if not more_nano then return nil, 'too_large' end
    end
    if math.abs(more_nano) > MAX_AMOUNT or math.abs(more_pico) > MAX_AMOUNT then return nil, 'too_large' end
    nano, pico = nano + more_nano, pico + more_pico
  end
  if at ~= stop then return nil, 'unknown_shape' end
  local charge = round_up(nano, pico)
  if not charge then return nil, 'too_large' end
  return charge
end

-- Moves the counters as a rating said.
-- rare: as `rate_tiers`
local function count_periods(a, meter)
  for _, move in ipairs(meter.moves or {}) do
    a[move[1]] = math.max(0, math.min(a[move[1]] + move[2], MAX_AMOUNT))
  end
end

-- A hold's marks or a tombstone's: start, position, of each tiered row.
-- rare: as `rate_tiers`
local function read_marks(raw, at, n_tiered)
  local marks = { sunpack('<' .. rep('dd', n_tiered), raw, at) }
  marks[#marks] = nil
  return marks
end

-- Takes out of the counters what a hold keeps in them. A period that is gone holds nothing any more.
-- rare: as `rate_tiers`
local function leave_periods(a, h, raw, marks)
  local at = h[H_NEXT] + 16 * h[H_ALLOCATIONS] + LIMIT_SIZE * h[H_LIMITS] + 16 * h[H_TIERED]
  local n, k = h[H_UNITS], 0
  local estimate = { sunpack('<' .. rep('d', n), raw, at) }
  at = at + 16 * n
  for i = 1, n do
    local _, shape, n_tiers = byte(raw, at, at + 2)
    if shape == 0 then
      at = at + 18
    else
      k = k + 1
      local p, field = find_period(a, sunpack('<I', raw, at + 4), marks[2 * k - 1])
      if field and field == p + P_USED then a[p + P_HELD] = a[p + P_HELD] - estimate[i] end
      at = at + 32 + 32 * n_tiers
    end
  end
end

-- Rates a vector of quantities by price rows: the one place where usage becomes money. Two limbs,
-- whole nano-credits and pico-credits, rounded up once. Fills `usage` with unit, quantity, … of
-- what is not zero. Rows with tiers need a `meter`, and a charge of theirs may be negative.
-- answers: unknown_shape, bad_quantity, bad_rate, too_large
local function rate(rows, rows_at, rows_size, vector, vector_at, n, usage, meter)
  if rows_size ~= 18 * n then
    if not meter then return nil, 'unknown_shape' end
    return rate_tiers(rows, rows_at, rows_size, vector, vector_at, n, usage, meter)
  end
  local r = { sunpack('<' .. rep('BBdd', n), rows, rows_at) }
  local q = { sunpack('<' .. rep('d', n), vector, vector_at) }
  local nano, pico = 0, 0
  for i = 1, n do
    local quantity, row = q[i], 4 * i
    if r[row - 2] ~= 0 then return nil, 'unknown_shape' end
    if quantity ~= 0 then
      if not (quantity > 0 and quantity <= MAX_QUANTITY and floor(quantity) == quantity) then
        return nil, 'bad_quantity'
      end
      local whole_rate, rest_rate = r[row - 1], r[row]
      if not (whole_rate >= 0 and whole_rate <= MAX_RATE and floor(whole_rate) == whole_rate
        and rest_rate >= 0 and rest_rate < 1000 and floor(rest_rate) == rest_rate) then
        return nil, 'bad_rate'
      end
      nano = nano + quantity * whole_rate
      pico = pico + quantity * rest_rate
      if usage then
        usage[#usage + 1] = r[row - 3]
        usage[#usage + 1] = quantity
      end
    end
  end
  local charge = round_up(nano, pico)
  if not charge then return nil, 'too_large' end
  return charge
end

-- What the wallet has at `now`: available to this model group; what it could pay were nothing
-- held; and its balance over all groups.
local function credit(a, bits, now)
  local free, all, balance = 0, 0, 0
  for g = HEADER + 1, HEADER + 10 * a[N_GRANTS], 10 do
    local expires_at = a[g + EXPIRES_AT]
    if a[g + EFFECTIVE_AT] <= now and (expires_at == 0 or now < expires_at) then
      local remaining, of = a[g + REMAINING], a[g + BITS]
      balance = balance + remaining
      if of == 0 or bit.band(of, bits) ~= 0 then
        all = all + remaining
        free = free + remaining - a[g + GRANT_HELD]
      end
    end
  end
  local debt, limit = a[OVERDRAFT], a[CREDIT_LIMIT]
  return free - debt - a[HELD_CREDIT] + limit, all - debt + limit, balance - debt
end

-- Adds to a list of no, amount, …; one entry per grant.
local function note(list, no, amount)
  for i = 1, #list, 2 do
    if list[i] == no then
      list[i + 1] = list[i + 1] + amount
      return
    end
  end
  list[#list + 1] = no
  list[#list + 1] = amount
end

-- Goes over the unheld remainder of the eligible grants in burn order until `amount` is found, and
-- holds it, or takes it for good. Notes each part; returns what was not found.
local function draw(a, amount, bits, now, hold, list)
  for g = HEADER + 1, HEADER + 10 * a[N_GRANTS], 10 do
    if amount <= 0 then break end
    local free, of, expires_at = a[g + REMAINING] - a[g + GRANT_HELD], a[g + BITS], a[g + EXPIRES_AT]
    if free > 0 and a[g + EFFECTIVE_AT] <= now and (expires_at == 0 or now < expires_at)
      and (of == 0 or bit.band(of, bits) ~= 0) then
      local part = free < amount and free or amount
      if hold then
        a[g + GRANT_HELD] = a[g + GRANT_HELD] + part
      else
        a[g + REMAINING] = a[g + REMAINING] - part
      end
      note(list, a[g + NO], part)
      amount = amount - part
    end
  end
  return amount
end

-- Holds `amount`: eligible grants first, the rest on the credit limit (grant 0).
local function allocate(a, amount, bits, now, list)
  a[HELD] = a[HELD] + amount
  local rest = draw(a, amount, bits, now, true, list)
  if rest > 0 then
    a[HELD_CREDIT] = a[HELD_CREDIT] + rest
    note(list, 0, rest)
  end
end

-- Charges `amount` that no hold covers: unheld eligible remainder, then overdraft (grant 0).
local function take(a, amount, bits, now, list)
  local rest = draw(a, amount, bits, now, false, list)
  if rest > 0 then
    a[OVERDRAFT] = a[OVERDRAFT] + rest
    note(list, 0, rest)
  end
end

local function find_grant(a, no)
  for g = HEADER + 1, HEADER + 10 * a[N_GRANTS], 10 do
    if a[g + NO] == no then return g end
  end
end

-- Where a new grant goes: before the first one that burns after it. Priority, then soonest expiry,
-- then promotional, allowance, adjustment, paid, then effective_at, then age.
local function add_grant(a, category, priority, bits, amount, effective_at, expires_at, now)
  local no = a[NEXT_GRANT_NO]
  a[NEXT_GRANT_NO] = no + 1
  local rank = { 4, 1, 2, 3 } -- by category
  local key = { priority, expires_at == 0 and MAX_AMOUNT or expires_at, rank[category], effective_at }
  local at = HEADER + 1 + 10 * a[N_GRANTS]
  for g = HEADER + 1, at - 10, 10 do
    local other = { a[g + PRIORITY], a[g + EXPIRES_AT] == 0 and MAX_AMOUNT or a[g + EXPIRES_AT],
      rank[a[g + CATEGORY]], a[g + EFFECTIVE_AT] }
    local k = 1
    while k < 4 and key[k] == other[k] do k = k + 1 end
    if key[k] < other[k] then
      at = g
      break
    end
  end
  insert(a, at, { category, priority, 0, bits, no, amount, 0, effective_at, expires_at, now })
  a[N_GRANTS] = a[N_GRANTS] + 1
  if expires_at > 0 and expires_at < a[SWEEP_AT] then a[SWEEP_AT] = expires_at end
  return no
end

-- Grants with nothing left and nothing held go when the next one comes.
local function drop_exhausted(a)
  local to = HEADER + 1
  for from = HEADER + 1, HEADER + 10 * a[N_GRANTS], 10 do
    if a[from + REMAINING] > 0 or a[from + GRANT_HELD] > 0 then
      for i = 0, 9 do a[to + i] = a[from + i] end
      to = to + 10
    end
  end
  local gone, size = HEADER + 1 + 10 * a[N_GRANTS] - to, #a
  for i = to, size do a[i] = a[i + gone] end
  a[N_GRANTS] = a[N_GRANTS] - gone / 10
end

-- A grant: what is active now and good for every model repays the overdraft first, the rest is its
-- remainder. Notes both; returns its number, which it has also when nothing was left of it.
local function credit_grant(a, category, priority, bits, amount, effective_at, expires_at, now, list)
  local repaid = 0
  if bits == 0 and effective_at <= now then
    repaid = a[OVERDRAFT] < amount and a[OVERDRAFT] or amount
  end
  a[GRANTED], a[OVERDRAFT] = a[GRANTED] + amount, a[OVERDRAFT] - repaid
  if repaid > 0 then note(list, 0, repaid) end
  local no = a[NEXT_GRANT_NO]
  if amount > repaid then
    add_grant(a, category, priority, bits, amount - repaid, effective_at, expires_at, now)
    note(list, no, amount - repaid)
  else
    a[NEXT_GRANT_NO] = no + 1
  end
  return no
end

-- Where the signals stand in an account record: four numbers that are compared each time, the end of
-- the hour, and the rest packed. Only for a record that has them.
local function signals_at(a)
  return HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS] + 12 * a[N_ALLOWANCES]
end

-- What time alone has done by `now` (README, Time): grants expire, allowances open. Adds what
-- `tell` shall write: kind, moved, amount, balance after, part of the event id, facts.
-- rare: once a period
local function catch_up(a, now, told)
  local next_at = MAX_AMOUNT
  local _, _, balance = credit(a, 0, now)
  local first = HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS]
  for g = HEADER + 1, HEADER + 10 * a[N_GRANTS], 10 do
    local no, expires_at, left = a[g + NO], a[g + EXPIRES_AT], a[g + REMAINING] - a[g + GRANT_HELD]
    if expires_at > 0 and left > 0 then
      if now < expires_at then
        next_at = math.min(next_at, expires_at)
      else
        a[g + REMAINING], a[EXPIRED_CREDIT] = a[g + GRANT_HELD], a[EXPIRED_CREDIT] + left
        for w = first, first + 12 * (a[N_ALLOWANCES] - 1), 12 do
          if a[w + A_GRANT] == no then a[w + A_CARRY] = a[w + A_CARRY] + left end
        end
        told[#told + 1] = { 'expire_grant', { no, left }, left, balance, no, { expired_at_ms = expires_at } }
      end
    end
  end
  for i = 0, a[N_ALLOWANCES] - 1 do
    local w = HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS] + 12 * i
    if now >= a[w + A_END] then
      drop_exhausted(a)
      w = HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS] + 12 * i
      local rolled = math.min(a[w + A_CARRY], a[w + A_ROLLOVER])
      local amount = a[w + A_AMOUNT] + rolled
      if a[N_GRANTS] < MAX_GRANTS and a[GRANTED] + amount <= MAX_AMOUNT then
        local day = a[w + A_DAY] > 0 and a[w + A_DAY] or a[BILLING_DAY]
        local start, ends = borders(a[w + A_KIND], now, day)
        local id, moved = a[w], {}
        a[w + A_START], a[w + A_END], a[w + A_CARRY], a[w + A_GRANT] = start, ends, 0, a[NEXT_GRANT_NO]
        credit_grant(a, a[w + A_CATEGORY], a[w + A_PRIORITY], a[w + A_BITS], amount, start, ends, now, moved)
        balance = balance + amount
        told[#told + 1] = { 'grant', moved, amount, balance, format('%.0f:%.0f', id, start),
          { allowance_id = id, period_start_ms = start, period_end_ms = ends, rolled_over_nano = rolled } }
        w = HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS] + 12 * i
      end
    end
    next_at = math.min(next_at, a[w + A_END])
  end
  if a[N_SIGNALS] > 0 then next_at = math.min(next_at, a[signals_at(a) + S_AT]) end
  a[SWEEP_AT] = next_at
end

-- Replaces the rules by which a wallet announces; `silent` when they say nothing. A threshold that
-- stays remembers whether it was announced. False when the rules are these already.
local function set_signals(a, rules, silent)
  local s, state = signals_at(a), rep('\0', 52)
  if a[N_SIGNALS] == 0 then
    if silent then return false end
    insert(a, s, { 0, 0, 0, 0, 0, '' })
  else
    local packed = a[s + S_PACKED]
    if string.sub(packed, 1, #rules) == rules then return false end
    local n, at = byte(packed), 75 + 8 * byte(packed)
    local known, announced = sunpack('<H', packed, at), 0
    if known % 2 == 1 then announced = 1 end
    for i = 1, byte(rules) do
      local threshold = string.sub(rules, 67 + 8 * i, 74 + 8 * i)
      for j = 1, n do
        if string.sub(packed, 67 + 8 * j, 74 + 8 * j) == threshold and bit.band(known, 2 ^ j) ~= 0 then
          announced = announced + 2 ^ i
        end
      end
    end
    state = spack('<H', announced) .. string.sub(packed, at + 2, at + 3) .. rep('\0', 8) .. string.sub(packed, at + 12)
  end
  if silent then
    for i = s, #a do a[i] = a[i + 6] end
    a[N_SIGNALS] = 0
    return true
  end
  local packed = rules .. state
  a[s + S_PACKED] = packed .. rep('\0', -#packed % 8)
  a[N_SIGNALS] = 5 + #a[s + S_PACKED] / 8
  return true
end

-- What the wallet has to announce (README, Signals): a list for the stamp, or nil. `spent`: what this
-- step added to `settled`. Where nothing is crossed, five comparisons are all it costs.
local function notice(a, balance, now, spent, always)
  if a[N_SIGNALS] == 0 then return nil end
  local s = signals_at(a)
  if not always and balance >= a[s] and balance < a[s + S_TO] and now < a[s + S_AT]
    and a[SETTLED] < a[s + S_MARK] and now < a[s + S_HOUR_END] then
    return nil
  end
  local packed, found = a[s + S_PACKED], {}
  local n, flags, before, top_below, top_amount, cooldown, top_most, top_period, factor, least_spent, least_hours =
    sunpack('<BBddddddddd', packed)
  local at = 75 + 8 * n
  local announced, fast, n_hours, expiry_mark, top_last, top_start, top_count, hour, settled_before =
    sunpack('<HBBdddddd', packed, at)
  local levels, hours = { sunpack('<' .. rep('d', n), packed, 75) }, string.sub(packed, at + 52, at + 51 + n_hours)
  local from, to, next_at, mark, hour_end = -2 * MAX_AMOUNT, 2 * MAX_AMOUNT, MAX_AMOUNT, 2 * MAX_AMOUNT, MAX_AMOUNT
  local used = a[GRANTED] + a[SETTLED] > 0 -- a new wallet is not low, it has not begun
  if not used then to = balance end
  local recovered
  local function level(flag, threshold, name, says)
    local known = bit.band(announced, flag) ~= 0
    if balance >= threshold then
      from = math.max(from, threshold)
      if known then
        announced = announced - flag
        recovered = math.max(recovered or says, says)
      end
    else
      to = math.min(to, threshold)
      if used and not known then
        announced = announced + flag
        found[#found + 1] = { name, says }
      end
    end
  end
  for i = n, 1, -1 do level(2 ^ i, levels[i], 'low_balance', levels[i]) end
  if flags % 2 == 1 then level(1, 1 - a[CREDIT_LIMIT], 'exhausted', 0 - a[CREDIT_LIMIT]) end
  if recovered then found[#found + 1] = { 'recovered', recovered } end
  if before > 0 then
    for g = HEADER + 1, HEADER + 10 * a[N_GRANTS], 10 do
      local expires_at = a[g + EXPIRES_AT]
      if expires_at > now and expires_at > expiry_mark and a[g + REMAINING] > 0 and a[g] ~= 3 then
        if expires_at - before <= now then
          found[#found + 1] = { 'grant_expiring', a[g + NO], a[g + REMAINING], expires_at }
        else
          next_at = math.min(next_at, expires_at - before)
        end
      end
    end
    expiry_mark = math.max(expiry_mark, now + before)
  end
  if top_amount > 0 and balance >= top_below then
    from = math.max(from, top_below)
  elseif top_amount > 0 and used then
    to = math.min(to, top_below)
    if now >= top_start + top_period then top_count = 0 end
    if top_count < top_most and (top_last == 0 or now >= top_last + cooldown) then
      if top_count == 0 then top_start = now end
      top_last, top_count = now, top_count + 1
      found[#found + 1] = { 'topup_wanted', top_below, top_amount, top_count }
    end
    next_at = math.min(next_at, top_count < top_most and top_last + cooldown or top_start + top_period)
  end
  if factor > 0 then
    local this = now - now % 3600000
    if hour == 0 then
      hour, settled_before = this, a[SETTLED] - spent
    elseif this > hour then -- a byte an hour: a fifth of an octave of micro-credits
      local code = floor(5 * math.log(math.max(0, a[SETTLED] - spent - settled_before) / 1000 + 1) / math.log(2) + 0.5)
      local idle = math.min(168, (this - hour) / 3600000 - 1)
      hours = string.sub(hours .. string.char(code) .. rep('\0', idle), -168)
      hour, settled_before, fast = this, a[SETTLED] - spent, 0
    end
    if fast == 0 and #hours >= least_hours then
      local sorted = { byte(hours, 1, -1) }
      table.sort(sorted)
      local usual = floor(1000 * (2 ^ (sorted[math.ceil(#sorted / 2)] / 5) - 1))
      local most = math.min(MAX_AMOUNT, math.max(least_spent, floor(usual * factor / 1000)))
      local so_far = a[SETTLED] - settled_before
      if so_far > most then
        fast = 1
        if flags >= 2 then a[STATUS] = 1 end
        found[#found + 1] = { 'spending_fast', so_far, usual, flags >= 2 and 1 or 0 }
      else
        mark = settled_before + most + 1
      end
    end
    hour_end = hour + 3600000
  end
  packed = string.sub(packed, 1, at - 1) .. spack('<HBBdddddd', announced, fast, #hours, expiry_mark, top_last,
    top_start, top_count, hour, settled_before) .. hours
  packed = packed .. rep('\0', -#packed % 8)
  a[s], a[s + S_TO], a[s + S_AT], a[s + S_MARK], a[s + S_HOUR_END], a[s + S_PACKED] =
    from, to, next_at, mark, hour_end, packed
  a[N_SIGNALS] = 5 + #packed / 8
  if next_at < a[SWEEP_AT] then a[SWEEP_AT] = next_at end
  return found[1] and found
end

-- Credits `amount` that no grant is named for: overdraft first, the rest a grant of its own.
local function credit_back(a, amount, priority, now, list)
  local repaid = a[OVERDRAFT] < amount and a[OVERDRAFT] or amount
  if repaid > 0 then
    a[OVERDRAFT] = a[OVERDRAFT] - repaid
    note(list, 0, repaid)
  end
  if amount > repaid then
    note(list, add_grant(a, 4, priority, 0, amount - repaid, now, 0, now), amount - repaid)
  end
end

-- Gives back what a step of a volume tier makes of a negative charge: an adjustment that names the
-- event. Overdraft first, then a grant of its own, burned last.
-- rare: once a tier
local function reprice(a, amount, id, event_id, now, balance, told)
  local moved = {}
  credit_back(a, amount, 255, now, moved)
  a[ADJUSTED] = a[ADJUSTED] + amount
  told[#told + 1] = { 'adjust', moved, amount, balance + amount, id .. ':repriced',
    { corrects = event_id, reason = 'volume' } }
end

-- Takes a hold out of the wallet and charges in its place: the grants it rests on pay first, in
-- its order, then unheld credit, then overdraft. Returns who paid.
local function spend_hold(a, h, raw, charge, now)
  local paid, left, n = {}, charge, 2 * h[H_ALLOCATIONS]
  local allocations = { sunpack('<' .. rep('d', n), raw, h[H_NEXT]) }
  for i = 1, n, 2 do
    local no, amount = allocations[i], allocations[i + 1]
    if no == 0 then
      a[HELD_CREDIT] = a[HELD_CREDIT] - amount
    else
      local g = find_grant(a, no) -- a grant that is held is never dropped
      local part = left < amount and left or amount
      a[g + GRANT_HELD] = a[g + GRANT_HELD] - amount
      local expires_at = a[g + EXPIRES_AT]
      if expires_at > 0 and expires_at < a[SWEEP_AT] then a[SWEEP_AT] = expires_at end
      if part > 0 then
        a[g + REMAINING] = a[g + REMAINING] - part
        note(paid, no, part)
        left = left - part
      end
    end
  end
  a[HELD], a[OPEN], a[SETTLED] = a[HELD] - h[H_HELD], a[OPEN] - 1, a[SETTLED] + charge
  take(a, left, h[H_BITS], now, paid)
  return paid
end

-- Gives back what an expiry charged too much: overdraft first, then the grants that paid, last one
-- first; what is left of neither becomes a grant of its own, burned last.
-- rare: of late settles
local function give_back(a, amount, e, raw, now, list)
  local repaid = a[OVERDRAFT] < amount and a[OVERDRAFT] or amount
  if repaid > 0 then
    a[OVERDRAFT] = a[OVERDRAFT] - repaid
    note(list, 0, 0 - repaid)
    amount = amount - repaid
  end
  local paid = { sunpack('<' .. rep('dd', e[E_ALLOCATIONS]), raw, e[E_NEXT]) }
  for i = 2 * e[E_ALLOCATIONS] - 1, 1, -2 do
    local g = amount > 0 and find_grant(a, paid[i])
    if g then
      local part = paid[i + 1] < amount and paid[i + 1] or amount
      a[g + REMAINING] = a[g + REMAINING] + part
      local expires_at = a[g + EXPIRES_AT]
      if expires_at > 0 and expires_at < a[SWEEP_AT] then a[SWEEP_AT] = expires_at end
      note(list, paid[i], 0 - part)
      amount = amount - part
    end
  end
  if amount > 0 then note(list, add_grant(a, 4, 255, 0, amount, now, 0, now), 0 - amount) end
end

-- Counts a request under its limits: rows of <BBIddddd become held counters. Returns the hold's
-- limit rows, or nil and the refusal: word, and for a limit its row, what is left, when to retry.
-- answers: bad_limits, stale_windows, spend_limit, rate_limit, concurrency_limit
local function count_in(scopes, rows, now, amount, tokens)
  local limits, refusal, row = {}, nil, 0
  for at = 1, #rows, 46 do
    local scope, measure, id, ceiling, before, start, following, after = sunpack('<BBIddddd', rows, at)
    local record = scopes[scope]
    if not (record and measure >= SPEND and measure <= CONCURRENT and ceiling >= 0) then
      return nil, { 'bad_limits' }
    end
    local window, ends, last
    if now >= start and now < following then
      window, ends, last = start, following, before
    elseif now >= following and now < after then
      window, ends, last = following, after, start
    elseif now >= before and now < start then
      window, ends, last = before, start, -1
    else
      return nil, { 'stale_windows' }
    end
    local c = find_counter(record, scope, id)
    if not c then
      c = #record + 1
      record[c], record[c + 1], record[c + 2], record[c + 3], record[c + 4] = id, window, 0, 0, 0
      local count = scope == 0 and N_COUNTERS or 3
      record[count] = record[count] + 1
    elseif record[c + WINDOW] < window then
      record[c + PREVIOUS] = record[c + WINDOW] == last and record[c + USED] or 0
      record[c + WINDOW], record[c + USED], record[c + COUNTER_HELD] = window, 0, 0
    else
      window = record[c + WINDOW] -- a clock that went back reopens no window
    end
    local adds = measure == SPEND and amount or measure == TOKENS and tokens or 1
    local left = ceiling - record[c + USED] - record[c + COUNTER_HELD]
    if adds > left and not refusal then
      refusal = {
        measure == SPEND and 'spend_limit' or measure == CONCURRENT and 'concurrency_limit' or 'rate_limit',
        row, left, measure == CONCURRENT and -1 or ends - now,
      }
    end
    record[c + COUNTER_HELD] = record[c + COUNTER_HELD] + adds
    local to = 6 * row
    limits[to + 1], limits[to + 2], limits[to + 3] = scope, measure, id
    limits[to + 4], limits[to + 5], limits[to + 6] = window, ceiling, adds
    row = row + 1
  end
  if refusal then return nil, refusal end
  return limits
end

-- Replaces what a hold keeps under its limits by what was used. A counter whose window is no longer
-- the hold's is left alone. Returns the rows, with what was used in place of what was held.
local function count_out(scopes, h, raw, charge, requests, tokens)
  local n = h[H_LIMITS]
  if n == 0 then return {} end
  local rows = { sunpack('<' .. rep('BBIddd', n), raw, h[H_NEXT] + 16 * h[H_ALLOCATIONS]) }
  rows[6 * n + 1] = nil
  for i = 1, 6 * n, 6 do
    local scope, measure = rows[i], rows[i + 1]
    local used = measure == SPEND and charge or measure == REQUESTS and requests
      or measure == TOKENS and tokens or 0
    local record = scopes[scope]
    local c = record and find_counter(record, scope, rows[i + 2])
    if c and record[c + WINDOW] == rows[i + 3] then
      record[c + COUNTER_HELD] = record[c + COUNTER_HELD] - rows[i + 5]
      record[c + USED] = math.min(record[c + USED] + used, MAX_AMOUNT)
    end
    rows[i + 5] = used
  end
  return rows
end

-- Corrects the counters by what a late settle used beyond what its expiry counted.
-- rare: of late settles
local function count_late(scopes, e, raw, charge, tokens)
  local n = e[E_LIMITS]
  local rows = { sunpack('<' .. rep('BBIddd', n), raw, e[E_NEXT] + 16 * e[E_ALLOCATIONS]) }
  for i = 1, 6 * n, 6 do
    local measure, record = rows[i + 1], scopes[rows[i]]
    local used = measure == SPEND and charge or measure == TOKENS and tokens
    local c = used and record and find_counter(record, rows[i], rows[i + 2])
    if c and record[c + WINDOW] == rows[i + 3] then
      record[c + USED] = math.min(record[c + USED] + used - rows[i + 5], MAX_AMOUNT)
    end
  end
end

-- Entry of the outbox, in the same step as the balance change. The id is explicit, so that a
-- stream and a shard record that disagree fail here, at the first write. The record goes into
-- the caller's MSET.
local function emit(out, shard, kind, event_id, now, amount, held, cost, balance, list, usage, facts, signals)
  local seq = shard[LAST_SEQ] + 1
  call('XADD', out, format('%.0f-%.0f', shard[EPOCH], seq),
    's', cmsgpack.pack({ kind, event_id, now, amount, held, cost, balance, list, usage, signals }), 'f', facts)
  shard[LAST_SEQ] = seq
end

local function pack_shard(shard)
  return spack(SHARD, unpack(shard))
end

-- Writes what `catch_up` and `reprice` collected. The customer's id stands in the account's key.
-- rare: as `catch_up`
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

-- An entry of its own for what a wallet has to announce.
local function announce(out, shard, account_key, now, balance, signals)
  local customer = string.match(account_key, '^{[^}]*}:a:(.*)$')
  emit(out, shard, 'signals', format('signals:%s:%.0f-%.0f', customer, shard[EPOCH], shard[LAST_SEQ] + 1), now, 0, 0,
    false, balance, {}, {}, cmsgpack.pack({ customer_id = customer }), signals)
end
