-- What a wallet announces (README, Signals).

-- Replaces the rules by which a wallet announces; `silent` when they say nothing. A threshold that
-- stays remembers whether it was announced. False when the rules are these already.
local function set_signals(a, rules, silent)
  local s, state = first_signal(a), rep('\0', 52)
  if a[N_SIGNALS] == 0 then
    if silent then return false end
    insert(a, s, { 0, 0, 0, 0, 0, '' })
  else
    local packed = a[s + S_PACKED]
    if string.sub(packed, 1, #rules) == rules then return false end
    local n, at = byte(packed), 75 + 8 * byte(packed)
    local known, announced = sunpack('<H', packed, at), 0
    if known % 2 == 1 and byte(rules, 2) % 2 == 1 then announced = 1 end
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
  local s = first_signal(a)
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
  if not used then to = from end -- so that each step asks again
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
      local told_at = expires_at - before
      if expires_at > now and expires_at > expiry_mark and a[g + CREATED_AT] <= told_at and a[g] ~= 3 then
        if now < told_at then
          next_at = math.min(next_at, told_at)
        elseif a[g + REMAINING] > 0 then
          found[#found + 1] = { 'grant_expiring', a[g + NO], a[g + REMAINING], expires_at }
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
    if fast == 0 and #hours >= math.max(1, least_hours) then
      local sorted = { byte(hours, 1, -1) }
      table.sort(sorted)
      local usual = floor(1000 * (2 ^ (sorted[math.ceil(#sorted / 2)] / 5) - 1))
      local most = math.min(MAX_AMOUNT, math.max(least_spent, floor(usual * factor / 1000)))
      local so_far = a[SETTLED] - settled_before
      if so_far > most then
        fast = 1
        if flags >= 2 and a[STATUS] == 0 then a[STATUS] = FROZEN end
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
