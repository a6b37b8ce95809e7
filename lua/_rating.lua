-- Rating: the one place where quantities become money (README, Rating).

-- units × rate in nano- and pico-credits, of the latter less than a million: so a whole period's
-- units are exact too.
local function multiply(units, whole_rate, rest_rate)
  local over = units % 1000
  return units * whole_rate + (units - over) / 1000 * rest_rate, over * rest_rate
end

-- Packages begun between x0 and x1.
local function packages(size, x0, x1)
  local over0, over1 = math.fmod(x0, size), math.fmod(x1, size)
  return (x1 - over1) / size - (x0 - over0) / size + (over1 > 0 and 1 or 0) - (over0 > 0 and 1 or 0)
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
    return multiply(packages(size, x0, x1), tiers[2], tiers[3])
  elseif shape == 4 then
    return x0 == 0 and tiers[4] or 0, 0
  end
  local nano, pico, lower, from = 0, 0, 0, nil
  for t = 1, #tiers, 4 do
    local upper, whole_rate, rest_rate, flat = tiers[t], tiers[t + 1], tiers[t + 2], tiers[t + 3]
    if upper == 0 then upper = MAX_AMOUNT * 2 end
    if shape == 1 then
      local units = (x1 < upper and x1 or upper) - (x0 > lower and x0 or lower)
      if units > 0 then
        local over = units % 1000 -- as `multiply`
        nano, pico = nano + units * whole_rate + (units - over) / 1000 * rest_rate, pico + over * rest_rate
      end
      if x0 <= lower then nano = nano + flat end
    else
      if not from and x0 <= upper then from = t end
      if x1 <= upper then
        local all_nano, all_pico = x0 * (whole_rate - tiers[from + 1]), x0 * (rest_rate - tiers[from + 2])
        if math.abs(all_nano) > MAX_AMOUNT or math.abs(all_pico) > MAX_AMOUNT then return nil end
        nano, pico = multiply(x1 - x0, whole_rate, rest_rate)
        if nano > MAX_AMOUNT then return nil end
        return nano + all_nano + flat - (x0 > 0 and tiers[from + 3] or 0), pico + all_pico
      end
    end
    if x1 <= upper then break end
    lower = upper
  end
  return nano, pico
end

-- What C(x) lacks to the period's minimum, which is owed once x is above 0.
local function lack(shape, size, tiers, x, minimum)
  if x == 0 then return 0, 0 end
  local nano, pico = climb(shape, size, tiers, 0, x)
  if not nano or nano + floor(pico / 1000) >= minimum then return 0, 0 end
  return minimum - nano, 0 - pico
end

-- The same as `climb` of a row that may have a minimum for the period: with what each end lacks to it.
local function owe(shape, size, minimum, tiers, x0, x1)
  local nano, pico = climb(shape, size, tiers, x0, x1)
  if not nano or math.abs(nano) > MAX_AMOUNT then return nil end
  if minimum == 0 then return nano, pico end
  local nano0, pico0 = lack(shape, size, tiers, x0, minimum)
  local nano1, pico1 = lack(shape, size, tiers, x1, minimum)
  return nano + nano1 - nano0, pico + pico1 - pico0
end

-- The most that `units` between x0 and x1, which is more, can cost, the first of them being unit xh + 1
-- at most.
local function reach(shape, size, tiers, x0, xh, x1, units)
  if shape == 3 then
    local most = math.min(packages(size, x0, x1), math.ceil(units / size))
    return most * tiers[2], most * tiers[3]
  elseif shape == 4 then
    return x0 == 0 and tiers[4] or 0, 0
  end
  local dearest, rise, flats, flat_rise, lower = 0, 0, 0, 0, 0
  local least, least_flat = nil, x0 == 0 and 0 or nil
  for t = 1, #tiers, 4 do
    local upper, price, flat = tiers[t], tiers[t + 1] * 1000 + tiers[t + 2], tiers[t + 3]
    if upper == 0 then upper = MAX_AMOUNT * 2 end
    if upper > x0 then
      if price > dearest then dearest = price end
      if lower >= x0 then flats = flats + flat end
    end
    if shape == 2 and upper >= x0 then -- earlier units may move to a more expensive tier
      least, least_flat = math.min(least or price, price), math.min(least_flat or flat, flat)
      rise, flat_rise = math.max(rise, price - least), math.max(flat_rise, flat - least_flat)
    end
    if x1 <= upper then break end
    lower = upper
  end
  local rest_rate = dearest % 1000
  local whole_rate = (dearest - rest_rate) / 1000
  if shape == 1 then return units * whole_rate + flats, units * rest_rate end
  local rest_rise = rise % 1000
  local whole_rise = (rise - rest_rise) / 1000
  return units * whole_rate + xh * whole_rise + flat_rise, units * rest_rate + xh * rest_rise
end

-- Where a counter stands beyond the units that are included.
local function beyond(included, at)
  return at > included and at - included or 0
end

local function note_move(moves, id, field, by)
  local n = #moves
  moves[n + 1], moves[n + 2], moves[n + 3] = id, field or false, by
end

-- What a tiered row makes of a quantity, in two limbs; notes where the counter moves, and how far.
-- nil when too large or not fitting.
local function meter_row(meter, k, i, shape, kind, id, included, least, size, minimum, tiers, quantity)
  local a, moves, mark, before, p, field, start, used = meter.a, meter.moves, 2 * k, 0, nil, nil, nil, nil
  for j = 1, #moves, 3 do -- what earlier rows of this vector have added to the counter
    if moves[j] == id then before = before + moves[j + 2] end
  end
  if meter.opens then
    p = open_period(a, id, kind, meter.now)
    field, start = p + P_USED, a[p + P_START]
  else
    start, used = meter.marks[mark - 1], meter.marks[mark]
    if not start then return nil end
    p, field = find_period(a, id, start)
  end
  local nano, pico, billed
  if meter.mode == 'hold' then -- what it may cost
    local held, current = before, field and field == p + P_USED
    if field then used = a[field] end
    if current then held = held + a[p + P_HELD] end
    meter.next_marks = meter.next_marks .. spack('<dd', start, used + held)
    note_move(moves, id, current and p + P_HELD, quantity)
    local x0, xh = beyond(included, used), beyond(included, used + held)
    local x1 = beyond(included, used + held + quantity)
    local units = x1 - x0 < quantity and x1 - x0 or quantity
    if units == 0 then return 0, 0 end
    billed = true
    -- uses: reach
    nano, pico = reach(shape, size, tiers, x0, xh, x1, units)
    -- It may be the first of the period: beyond that, the minimum only makes it cheaper.
    if x0 == 0 and nano + floor(pico / 1000) < minimum then nano, pico = minimum, 0 end
  else
    local counted, first = 0, used
    if field then used = a[field] + before end
    if meter.left and field and field == p + P_USED then a[p + P_HELD] = a[p + P_HELD] - meter.left[i] end
    nano, pico = 0, 0
    if field and meter.mode == 'late' then
      counted = meter.was[i]
      -- uses: owe
      nano, pico = owe(shape, size, minimum, tiers, beyond(included, first), beyond(included, first + counted))
    end
    local moves_by = quantity - counted
    local x1 = beyond(included, used + moves_by)
    -- uses: owe
    local more_nano, more_pico = owe(shape, size, minimum, tiers, beyond(included, used), x1)
    if not nano or not more_nano then return nil end
    nano, pico = nano + more_nano, pico + more_pico
    billed = x1 > beyond(included, used - counted)
    meter.next_marks = meter.next_marks .. spack('<dd', start, used)
    note_move(moves, id, field, moves_by)
  end
  local whole_nano = nano + floor(pico / 1000)
  if billed and whole_nano >= 0 and whole_nano < least then return least, 0 end
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
--   a, mode: hold (the most that it may cost), charge, or late (charge on top of what an expiry did)
--   opens, now: the period of that moment, begun if need be; else `marks` says which, and where
--   was: late, the quantities that the expiry charged
--   left: of a hold that ends, its estimate, which leaves the counters (as `leave_periods` does, when
--   nobody rates); its reserve has found the rows in order
-- and is given `next_marks`, packed, and `moves` of the counters for `count_periods`: counter id, index of
-- the field or false, by how much, ….
-- answers: unknown_shape, bad_quantity, bad_rate, too_large
local function rate_tiers(rows, at, size, vector, vector_at, n, usage, meter)
  local q = { sunpack('<' .. rep('d', n), vector, vector_at) }
  local nano, pico, stop, k = 0, 0, at + size, 0
  meter.moves, meter.next_marks = { nil, nil, nil, nil, nil, nil }, ''
  for i = 1, n do
    local quantity, more_nano, more_pico = q[i], nil, nil
    if not (quantity >= 0 and quantity <= MAX_QUANTITY and quantity % 1 == 0) then
      return nil, 'bad_quantity'
    end
    if at + 18 > stop then return nil, 'unknown_shape' end
    local unit, shape, n_tiers, kind = byte(rows, at, at + 3)
    if shape == 0 then
      local whole_rate, rest_rate = sunpack('<dd', rows, at + 2)
      if not (whole_rate >= 0 and whole_rate <= MAX_RATE and whole_rate % 1 == 0
        and rest_rate >= 0 and rest_rate < 1000 and rest_rate % 1 == 0) then
        return nil, 'bad_rate'
      end
      more_nano, more_pico, at = quantity * whole_rate, quantity * rest_rate, at + 18
    else
      if shape > 4 or n_tiers == 0 or kind < 1 or kind > 6 or at + 40 + 32 * n_tiers > stop then
        return nil, 'unknown_shape'
      end
      local id, included, least, packet, minimum = sunpack('<Idddd', rows, at + 4)
      local tiers = { sunpack('<' .. rep('dddd', n_tiers), rows, at + 40) }
      tiers[#tiers] = nil
      if not meter.left then
        if not whole({ included, least, packet, minimum }) or packet < 1 then return nil, 'bad_rate' end
        for t = 1, #tiers, 4 do
          local upper, whole_rate, rest_rate, flat = tiers[t], tiers[t + 1], tiers[t + 2], tiers[t + 3]
          if not (upper >= 0 and upper <= MAX_AMOUNT and upper % 1 == 0
            and whole_rate >= 0 and whole_rate <= MAX_RATE and whole_rate % 1 == 0
            and rest_rate >= 0 and rest_rate < 1000 and rest_rate % 1 == 0
            and flat >= 0 and flat <= MAX_AMOUNT and flat % 1 == 0) then
            return nil, 'bad_rate'
          end
        end
      end
      at, k = at + 40 + 32 * n_tiers, k + 1
      more_nano, more_pico = meter_row(meter, k, i, shape, kind, id, included, least, packet, minimum, tiers,
        quantity)
      if not more_nano then return nil, 'too_large' end
    end
    if usage and quantity > 0 then
      usage[#usage + 1] = unit
      usage[#usage + 1] = quantity
    end
    if math.abs(more_nano) > MAX_AMOUNT or math.abs(more_pico) > MAX_AMOUNT then return nil, 'too_large' end
    nano, pico = nano + more_nano, pico + more_pico
  end
  if at ~= stop then return nil, 'unknown_shape' end
  local charge = round_up(nano, pico)
  if not charge then return nil, 'too_large' end
  return charge
end

-- Rates a vector of quantities by price rows: the one place where usage becomes money. Two limbs,
-- whole nano-credits and pico-credits, rounded up once. Fills `usage` with unit, quantity, … of
-- what is not zero. Rows with tiers need a `meter`, and a charge of theirs may be negative.
-- answers: unknown_shape, bad_quantity, bad_rate, too_large
local function rate(rows, rows_at, rows_size, vector, vector_at, n, usage, meter)
  if rows_size ~= 18 * n then
    if not meter then return nil, 'unknown_shape' end
    -- uses: rate_tiers
    return rate_tiers(rows, rows_at, rows_size, vector, vector_at, n, usage, meter)
  end
  local nano, pico = 0, 0
  for at = rows_at, rows_at + rows_size - 1, 18 do
    local quantity = sunpack('<d', vector, vector_at)
    vector_at = vector_at + 8
    if byte(rows, at + 1) ~= 0 then return nil, 'unknown_shape' end
    if quantity ~= 0 then
      if not (quantity > 0 and quantity <= MAX_QUANTITY and quantity % 1 == 0) then
        return nil, 'bad_quantity'
      end
      local unit, _, whole_rate, rest_rate = sunpack('<BBdd', rows, at)
      if not (whole_rate >= 0 and whole_rate <= MAX_RATE and whole_rate % 1 == 0
        and rest_rate >= 0 and rest_rate < 1000 and rest_rate % 1 == 0) then
        return nil, 'bad_rate'
      end
      nano = nano + quantity * whole_rate
      pico = pico + quantity * rest_rate
      if usage then
        usage[#usage + 1] = unit
        usage[#usage + 1] = quantity
      end
    end
  end
  local charge = round_up(nano, pico)
  if not charge then return nil, 'too_large' end
  return charge
end
