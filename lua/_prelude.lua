-- What the scripts share: names of the records' fields, checks, rating, and the wallet's
-- arithmetic. The loader (gateway/ledger/scripts.py) puts in front of each script the blocks that
-- it uses, with the values of the constants in place of their names: so blank lines stand between
-- blocks and nowhere else, and a constant is `local NAME, … = number or string, …`.
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
local MAX_ID = 200
local TOMBSTONE_TTL_MS = 3600000
local SETTLE_MAX_AGE_MS = 3300000

-- Shard record: index of each field.
local SHARD = '<BBHdddd'
local STATE, EPOCH, LAST_SEQ, ACKED_SEQ, ACKED_EPOCH = 2, 4, 5, 6, 7

-- Account record: header, then grants of ten fields, then counters of five.
local STATUS, N_GRANTS, N_COUNTERS, ACCOUNT_REV, CREDIT_LIMIT, OVERDRAFT = 2, 3, 4, 5, 6, 7
local HELD, HELD_CREDIT, OPEN, GRANTED, SETTLED = 8, 9, 10, 11, 12
local ADJUSTED, NEXT_GRANT_NO, HEADER = 15, 16, 16
-- A grant's fields, counted from its first index.
local CATEGORY, PRIORITY, BITS, NO, REMAINING, GRANT_HELD = 0, 1, 3, 4, 5, 6
local EFFECTIVE_AT, EXPIRES_AT = 7, 8
-- A counter's fields, likewise.
local WINDOW, USED, COUNTER_HELD, PREVIOUS = 1, 2, 3, 4

-- Measures of a limit.
local SPEND, REQUESTS, TOKENS, CONCURRENT = 1, 2, 3, 4

-- Reservation record, pending and ended.
local PENDING_HEADER = '<BBBBBBHHHIddddd'
local ENDED_HEADER = '<BBBBBBdddddd'
local H_ALLOCATIONS, H_LIMITS, H_UNITS, H_MASK, H_ROWS, H_COSTS, H_IDS = 3, 4, 5, 6, 7, 8, 9
local H_BITS, H_HELD, H_RESERVED_AT, H_DEADLINE, H_EXTEND_NO, H_TOKENS = 10, 11, 12, 13, 14, 15
local H_NEXT = 16 -- not a field: where the allocations begin
local E_ALLOCATIONS, E_LIMITS, E_CHARGED, E_HELD, E_RESERVED_AT = 3, 4, 7, 8, 9
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

local function account_format(n_grants, n_counters)
  return '<BBBBdddddddddddd' .. rep('BBHIdddddd', n_grants) .. rep('Idddd', n_counters)
end

local function read_account(raw)
  local _, _, n_grants, n_counters = byte(raw, 1, 4)
  local a = { sunpack(account_format(n_grants, n_counters), raw) }
  a[#a] = nil -- unpack's last value is the position after it
  return a
end

local function pack_account(a)
  return spack(account_format(a[N_GRANTS], a[N_COUNTERS]), unpack(a))
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
  if scope == 0 then first, count = HEADER + 1 + 10 * record[N_GRANTS], record[N_COUNTERS] end
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

-- Rates a vector of quantities by price rows: the one place where usage becomes money. Two limbs,
-- whole nano-credits and pico-credits, rounded up once. Fills `usage` with unit, quantity, … of
-- what is not zero.
-- answers: unknown_shape, bad_quantity, bad_rate, too_large
local function rate(rows, rows_at, rows_size, vector, vector_at, n, usage)
  if rows_size ~= 18 * n then return nil, 'unknown_shape' end
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
  -- Below the bounds every product and sum above was exact; beyond them, only large.
  if pico > MAX_AMOUNT or nano > MAX_AMOUNT then return nil, 'too_large' end
  local up = floor(pico / 1000) -- off by one at most where the division rounds: so compare
  if up * 1000 < pico then up = up + 1 end
  if nano + up > MAX_AMOUNT then return nil, 'too_large' end
  return nano + up
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
  local fields = { category, priority, 0, bits, no, amount, 0, effective_at, expires_at, now }
  for i = #a, at, -1 do a[i + 10] = a[i] end
  for i = 1, 10 do a[at + i - 1] = fields[i] end
  a[N_GRANTS] = a[N_GRANTS] + 1
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
local function emit(out, shard, kind, event_id, now, amount, held, cost, balance, list, usage, facts)
  local seq = shard[LAST_SEQ] + 1
  call('XADD', out, format('%.0f-%.0f', shard[EPOCH], seq),
    's', cmsgpack.pack({ kind, event_id, now, amount, held, cost, balance, list, usage }), 'f', facts)
  shard[LAST_SEQ] = seq
end

local function pack_shard(shard)
  return spack(SHARD, unpack(shard))
end
