-- The wallet's arithmetic: who pays, what comes in, and what time alone does (README, Who pays and
-- Time).

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
-- then promotional, allowance, adjustment, paid, then effective_at, then no. `effective_at` is 0 for what
-- is effective from now on: a condition on a clock that is set back would hide the grant.
local function add_grant(a, category, priority, bits, amount, effective_at, expires_at, now)
  local no = a[NEXT_GRANT_NO]
  a[NEXT_GRANT_NO] = no + 1
  local rank = { 4, 1, 2, 3 } -- by category
  local key = { priority, expires_at == 0 and MAX_AMOUNT or expires_at, rank[category], effective_at, no }
  local at = first_period(a)
  for g = HEADER + 1, at - 10, 10 do
    local other = { a[g + PRIORITY], a[g + EXPIRES_AT] == 0 and MAX_AMOUNT or a[g + EXPIRES_AT],
      rank[a[g + CATEGORY]], a[g + EFFECTIVE_AT], a[g + NO] }
    local k = 1
    while key[k] == other[k] do k = k + 1 end
    if key[k] < other[k] then
      at = g
      break
    end
  end
  insert(a, at, { category, priority, 0, bits, no, amount, 0, effective_at, expires_at, now })
  a[N_GRANTS] = a[N_GRANTS] + 1
  if expires_at > 0 then
    local next_at = expires_at
    if a[N_SIGNALS] > 0 and category ~= 3 then -- before it expires it is announced
      local s = first_signal(a)
      local told_at = expires_at - sunpack('<d', a[s + S_PACKED], 3)
      if told_at >= now then
        next_at, a[s + S_AT] = told_at, math.min(a[s + S_AT], told_at)
      end
    end
    a[SWEEP_AT] = math.min(a[SWEEP_AT], next_at)
  end
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
  local gone, size = first_period(a) - to, #a
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

-- What time alone has done by `now` (README, Time): grants expire, allowances open. Adds what
-- `tell` shall write: kind, moved, amount, balance after, part of the event id, facts.
local function catch_up(a, now, told)
  local next_at = MAX_AMOUNT
  local _, _, balance = credit(a, 0, now)
  local first = first_allowance(a)
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
    local w = first_allowance(a) + 12 * i
    if now >= a[w + A_END] then
      drop_exhausted(a)
      w = first_allowance(a) + 12 * i
      local rolled = math.min(a[w + A_CARRY], a[w + A_ROLLOVER])
      local amount = a[w + A_AMOUNT] + rolled
      if a[N_GRANTS] < MAX_GRANTS and a[GRANTED] + amount <= MAX_AMOUNT then
        local day = a[w + A_DAY] > 0 and a[w + A_DAY] or a[BILLING_DAY]
        local start, ends = period_boundaries(a[w + A_KIND], now, day)
        local id, moved = a[w], {}
        a[w + A_START], a[w + A_END], a[w + A_CARRY], a[w + A_GRANT] = start, ends, 0, a[NEXT_GRANT_NO]
        credit_grant(a, a[w + A_CATEGORY], a[w + A_PRIORITY], a[w + A_BITS], amount, 0, ends, now, moved)
        balance = balance + amount
        told[#told + 1] = { 'grant', moved, amount, balance, format('%.0f:%.0f', id, start),
          { allowance_id = id, period_start_ms = start, period_end_ms = ends, rolled_over_nano = rolled } }
        w = first_allowance(a) + 12 * i
      end
    end
    next_at = math.min(next_at, a[w + A_END])
  end
  if a[N_SIGNALS] > 0 then next_at = math.min(next_at, a[first_signal(a) + S_AT]) end
  a[SWEEP_AT] = next_at
end

-- Credits `amount` without naming a grant: overdraft first, the rest becomes a new grant. What is burned
-- last joins an open one of the same terms, so that any number of corrections takes one place of the 64.
local function credit_back(a, amount, priority, now, list)
  local repaid = a[OVERDRAFT] < amount and a[OVERDRAFT] or amount
  if repaid > 0 then
    a[OVERDRAFT] = a[OVERDRAFT] - repaid
    note(list, 0, repaid)
  end
  local rest = amount - repaid
  if rest > 0 then
    for g = HEADER + 1, HEADER + 10 * a[N_GRANTS], 10 do
      if priority == 255 and a[g + PRIORITY] == 255 and a[g + CATEGORY] == 4 and a[g + BITS] == 0
        and a[g + EFFECTIVE_AT] == 0 and a[g + EXPIRES_AT] == 0 then
        a[g + REMAINING] = a[g + REMAINING] + rest
        return note(list, a[g + NO], rest)
      end
    end
    note(list, add_grant(a, 4, priority, 0, rest, 0, 0, now), rest)
  end
end

-- Gives back what a step of a volume tier makes of a negative charge: an adjustment that names the
-- event. Overdraft first, then a new grant, burned last.
local function reprice(a, amount, id, event_id, now, balance, told)
  local moved = {}
  credit_back(a, amount, 255, now, moved)
  a[ADJUSTED] = a[ADJUSTED] + amount
  told[#told + 1] = { 'adjust', moved, amount, balance + amount, id,
    { corrects = event_id, reason = 'volume' } }
end

-- Takes a hold out of the wallet and charges in its place: the grants it rests on pay first, in
-- its order, then unheld credit, then overdraft. Returns who paid.
local function spend_hold(a, h, raw, charge, now)
  local paid, left, n = { nil, nil }, charge, 2 * h[H_ALLOCATIONS]
  local allocations = { sunpack('<' .. rep('d', n), raw, offset_of_allocations(h)) }
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
-- first; what is left after both becomes a new grant, burned last.
local function give_back(a, amount, e, raw, now, list)
  local repaid = a[OVERDRAFT] < amount and a[OVERDRAFT] or amount
  if repaid > 0 then
    a[OVERDRAFT] = a[OVERDRAFT] - repaid
    note(list, 0, 0 - repaid)
    amount = amount - repaid
  end
  local paid = { sunpack('<' .. rep('dd', e[E_ALLOCATIONS]), raw, ended_offset_of_allocations(e)) }
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
  if amount > 0 then note(list, add_grant(a, 4, 255, 0, amount, 0, 0, now), 0 - amount) end
end

-- Takes a hold off what it rests on, without charging anyone.
local function leave_grants(a, h, raw)
  local n = 2 * h[H_ALLOCATIONS]
  local allocations = { sunpack('<' .. rep('d', n), raw, offset_of_allocations(h)) }
  for i = 1, n, 2 do
    local g = find_grant(a, allocations[i]) -- a grant that is held is never dropped
    if g then
      a[g + GRANT_HELD] = a[g + GRANT_HELD] - allocations[i + 1]
    else
      a[HELD_CREDIT] = a[HELD_CREDIT] - allocations[i + 1]
    end
  end
end
