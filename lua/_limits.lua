-- Limits: what a request counts under its scopes' ceilings, held, then used (README, Limit rows).

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
