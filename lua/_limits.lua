-- Limits: what a request counts under its scopes' ceilings, held, then used (README, Limit rows).
--
-- A rolling counter's fields are those of its present slot; the twelve slots before lie in its ring.

-- Where a rolling counter's ring begins among its record's, the length of a slot, and what the slots
-- before the present one have used and hold. Nil for a counter that has none.
local function find_ring(record, id)
  local rings = record.rings
  if rings then
    for at = 1, #rings, RING_SIZE do
      local of, length, used, held = sunpack('<Iddd', rings, at)
      if of == id then return at, length, used, held end
    end
  end
end

-- Puts bytes into the rings of a record, in place of as many.
local function write_rings(record, at, bytes)
  record.rings = sub(record.rings, 1, at - 1) .. bytes .. sub(record.rings, at + #bytes)
end

-- A new counter, and a ring for it if it is rolling: `length` of a slot. What has not moved for 33
-- days counts in no window any more (the longest are 31 days, and thirteen slots of a rolling month),
-- and goes. Nil when there is no room.
local function new_counter(record, scope, id, window, length, now)
  local field, last, rings = scope == 0 and N_COUNTERS or 3, #record, ''
  local to = last + 1 - 4 * record[field]
  for c = to, last, 4 do
    local ring = find_ring(record, record[c])
    if record[c + WINDOW] == 0 or record[c + WINDOW] >= now - 2851200000 then
      for i = 0, 3 do record[to + i] = record[c + i] end
      to = to + 4
      if ring then rings = rings .. sub(record.rings, ring, ring + RING_SIZE - 1) end
    else
      record[field] = record[field] - 1
    end
  end
  if record[field] == MAX_COUNTERS then return nil end
  for i = last, to + 4, -1 do record[i] = nil end
  record[to], record[to + 1], record[to + 2], record[to + 3] = id, window, 0, 0
  record[field] = record[field] + 1
  if length then rings = rings .. spack('<Id', id, length) .. rep('\0', RING_SIZE - 12) end
  record.rings = rings ~= '' and rings or nil
  return to
end

-- Moves a rolling counter so many slots on, puts what its present slot was into its ring, and drops
-- what counts no more. Returns what the ring's slots have used and hold now.
local function turn_ring(record, c, ring, steps)
  if steps > 12 then
    write_rings(record, ring + 12, rep('\0', RING_SIZE - 12))
    return 0, 0
  end
  local slots = rep('\0', 16 * (steps - 1)) .. spack('<dd', record[c + USED], record[c + COUNTER_HELD])
    .. sub(record.rings, ring + 28, ring + RING_SIZE - 1 - 16 * steps)
  local of, used, held = { sunpack('<dddddddddddddddddddddddd', slots) }, 0, 0
  for i = 1, 24, 2 do used, held = used + of[i], held + of[i + 1] end
  write_rings(record, ring + 12, spack('<dd', used, held) .. slots)
  return used, held
end

-- Adds to a slot of a rolling counter's ring. False when the slot counts no more, or the counter has
-- no ring.
local function count_past(record, c, window, used, held)
  local ring, length, all_used, all_held = find_ring(record, record[c])
  local back = ring and (record[c + WINDOW] - window) / length
  if not ring or back < 1 or back > 12 then return false end
  local slot = ring + 12 + 16 * back
  local was_used, was_held = sunpack('<dd', record.rings, slot)
  used = math.min(was_used + used, MAX_AMOUNT)
  write_rings(record, ring + 12, spack('<dd', all_used + used - was_used, all_held + held))
  write_rings(record, slot, spack('<dd', used, was_held + held))
  return true
end

-- When so much of what a rolling counter has used will count no more.
local function until_aged(record, c, ring, over)
  local _, length = sunpack('<Id', record.rings, ring)
  for back = 12, 1, -1 do
    over = over - sunpack('<d', record.rings, ring + 12 + 16 * back)
    if over <= 0 then return record[c + WINDOW] + (13 - back) * length end
  end
  return record[c + WINDOW] + 13 * length
end

-- Counts a request under its limits: rows of <BBIddddd become held counters. Returns the hold's
-- limit rows, packed, or nil and the refusal: word, and for a limit its row, what is left, when to retry.
-- Of several that refuse it is the one that does so longest.
-- answers: bad_limits, stale_windows, spend_limit, rate_limit, concurrency_limit
local function count_in(scopes, rows, now, amount, tokens)
  local limits, refusal, longest, row = '', nil, -1, 0
  for at = 1, #rows, 46 do
    local scope, measure, id, ceiling, before, start, following, after = sunpack('<BBIddddd', rows, at)
    local record = scopes[scope]
    if not (record and measure >= SPEND and measure <= CONCURRENT and ceiling >= 0) then
      return nil, { 'bad_limits' }
    end
    local window, ends, ring, used, held
    if now >= start and now < following then
      window, ends = start, following
    elseif following == 0 then -- rolling: `before` is the length of a slot
      if not (before >= 1 and before <= MAX_AMOUNT and floor(before) == before) then
        return nil, { 'bad_limits' }
      end
      window = now - now % before
    elseif now >= following and now < after then
      window, ends = following, after
    elseif now >= before and now < start then
      window, ends = before, start
    else
      return nil, { 'stale_windows' }
    end
    local c = find_counter(record, scope, id)
    if not c then
      -- uses: new_counter
      c = new_counter(record, scope, id, window, following == 0 and before, now)
      if not c then return nil, { 'bad_limits' } end
    end
    if following == 0 then
      local length
      ring, length, used, held = find_ring(record, id)
      if length ~= before then return nil, { 'bad_limits' } end
      if record[c + WINDOW] < window then
        -- uses: turn_ring
        used, held = turn_ring(record, c, ring, (window - record[c + WINDOW]) / length)
      end
    end
    if record[c + WINDOW] < window then
      record[c + WINDOW], record[c + USED], record[c + COUNTER_HELD] = window, 0, 0
    elseif record[c + WINDOW] > window then -- a clock that went back reopens no window
      if ends then ends = ends + record[c + WINDOW] - window end
      window = record[c + WINDOW]
    end
    local adds = measure == SPEND and amount or measure == TOKENS and tokens or 1
    local left = ceiling - record[c + USED] - record[c + COUNTER_HELD]
    if ring then left = left - used - held end
    if adds > left then
      local over = record[c + USED] + (used or 0) + adds - ceiling
      -- uses: until_aged
      local wait = adds > ceiling and ENDLESS or over <= 0 and 0
        or ring and until_aged(record, c, ring, over) - now or ends < ENDLESS and ends - now or ENDLESS
      if wait > longest then
        longest = wait
        refusal = {
          measure == SPEND and 'spend_limit' or measure == CONCURRENT and 'concurrency_limit' or 'rate_limit',
          row, left, wait < ENDLESS and wait or -1,
        }
      end
    end
    record[c + COUNTER_HELD] = record[c + COUNTER_HELD] + adds
    limits = limits .. spack('<BBIddd', scope, measure, id, window, ceiling, adds)
    row = row + 1
  end
  if refusal then return nil, refusal end
  return limits
end

-- Holds more under the limits of a hold. Returns why that cannot be, the first reason; a counter whose
-- window is no longer the hold's has none.
local function count_more(scopes, limits, amount, tokens)
  local reason
  for i = 1, #limits, 6 do
    local measure, record = limits[i + 1], scopes[limits[i]]
    local adds = measure == SPEND and amount or measure == TOKENS and tokens or 0
    local c = adds > 0 and record and find_counter(record, limits[i], limits[i + 2])
    if c then
      local ring, _, used, held = find_ring(record, limits[i + 2])
      local counts = record[c + USED] + record[c + COUNTER_HELD] + (ring and used + held or 0)
      -- uses: count_past
      if record[c + WINDOW] == limits[i + 3] then
        record[c + COUNTER_HELD] = record[c + COUNTER_HELD] + adds
      elseif not (ring and count_past(record, c, limits[i + 3], 0, adds)) then
        adds = 0
      end
      if adds > 0 then
        if counts + adds > limits[i + 4] then
          reason = reason or (measure == SPEND and 'spend_limit' or 'rate_limit')
        end
        limits[i + 5] = limits[i + 5] + adds
      end
    end
  end
  return reason
end

-- Replaces what a hold keeps under its limits by what was used. A counter in whose window the hold's
-- is no more is left alone. Returns the rows, with what was used in place of what was held.
local function count_out(scopes, h, raw, charge, requests, tokens)
  local n = h[H_LIMITS]
  if n == 0 then return {} end
  local rows = { sunpack('<' .. rep('BBIddd', n), raw, offset_of_limits(h)) }
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
    elseif c and record.rings then
      -- uses: count_past
      count_past(record, c, rows[i + 3], used, 0 - rows[i + 5])
    end
    rows[i + 5] = used
  end
  return rows
end

-- Corrects the counters by what a late settle used beyond what its expiry counted.
local function count_late(scopes, e, raw, charge, tokens)
  local n = e[E_LIMITS]
  local rows = { sunpack('<' .. rep('BBIddd', n), raw, ended_offset_of_limits(e)) }
  for i = 1, 6 * n, 6 do
    local measure, record = rows[i + 1], scopes[rows[i]]
    local used = measure == SPEND and charge or measure == TOKENS and tokens
    local c = used and record and find_counter(record, rows[i], rows[i + 2])
    if c and record[c + WINDOW] == rows[i + 3] then
      record[c + USED] = math.min(record[c + USED] + used - rows[i + 5], MAX_AMOUNT)
    elseif c then
      -- uses: count_past
      count_past(record, c, rows[i + 3], used - rows[i + 5], 0)
    end
  end
end
