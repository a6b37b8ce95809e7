-- Periods: where they begin and end, and the counters in the account that tiers and included units
-- stand on.

-- Start and end of the period of `now`, UTC, in Unix ms. A month begins on `day`, or on the last day
-- of a shorter month.
local function period_boundaries(kind, now, day)
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

-- A period's counter, and the field that counts the period which began at `start`; nil for one of
-- neither this period nor the one before.
local function find_period(a, id, start)
  local first = first_period(a)
  for p = first, first + 7 * (a[N_PERIODS] - 1), 7 do
    if a[p] == id then
      if a[p + P_START] == start then return p, p + P_USED end
      return p, a[p + P_BEFORE] == start and p + P_USED_BEFORE or nil
    end
  end
end

-- A period's counter in the period of `now`, made or moved on; `p` is where it stands, if it does.
local function begin_period(a, p, id, kind, now)
  local start, ends = period_boundaries(kind, now, a[BILLING_DAY])
  if not p then
    p = first_allowance(a)
    insert(a, p, { id, start, ends, 0, 0, 0, 0 })
    a[N_PERIODS] = a[N_PERIODS] + 1
    return p
  end
  a[p + P_BEFORE], a[p + P_USED_BEFORE] = a[p + P_START], a[p + P_USED]
  a[p + P_START], a[p + P_END], a[p + P_USED], a[p + P_HELD] = start, ends, 0, 0
  return p
end

-- The same, if it has to be; it is never moved back.
local function open_period(a, id, kind, now)
  local p = find_period(a, id, -1)
  if p and now < a[p + P_END] then return p end
  -- uses: begin_period
  return begin_period(a, p, id, kind, now)
end

-- Moves the counters as a rating said.
local function count_periods(a, meter)
  local moves = meter.moves or {}
  for i = 2, #moves, 3 do
    local field = moves[i]
    if field then a[field] = math.max(0, math.min(a[field] + moves[i + 1], MAX_AMOUNT)) end
  end
end

-- A hold's marks or a tombstone's: start, position, of each tiered row.
local function read_marks(raw, at, n_tiered)
  local marks = { sunpack('<' .. rep('dd', n_tiered), raw, at) }
  marks[#marks] = nil
  return marks
end

-- Takes out of the counters what a hold keeps in them. A period that is gone holds nothing any more.
local function leave_periods(a, h, raw, marks)
  local at = offset_of_estimate(h)
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
      at = at + 40 + 32 * n_tiers
    end
  end
end
