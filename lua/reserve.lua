#!lua
-- reserve: holds credit and room under every limit for one request, or refuses and writes nothing.
--
-- KEYS[1] due
-- KEYS[2] out
-- KEYS[3] shard
-- KEYS[4] account
-- KEYS[5] reservation
-- KEYS[6] project  if the mask has 1; else the key
-- KEYS[7] key  if the mask has 1 and 2
-- KEYS[8] once  if ARGV[5] is given: the last of KEYS, whatever the mask
-- ARGV[1] head  <dddddddIBBHHH: now_ms (0: the ledger's clock), seen_epoch, seen_count, max_backlog (0: any),
--               account_rev, tokens, ttl_ms, scope bits, mask of scopes given,
--               n units, bytes of price rows, of cost rows, of ids
-- ARGV[2] reservation_id
-- ARGV[3] body  estimate (vector), checkpoint: what an expiry charges (vector), price rows, cost rows, ids, facts
-- ARGV[4] limits  rows of <BBIddddd; empty for none
-- ARGV[5] once  digest of the client's body, 16 bytes; given only where it sent an Idempotency-Key
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   already_ended  outcome: a tombstone lies under this id
--   exists_with_different_parameters
--   held  held_nano, available_nano, reserved_at_ms, deadline_ms: also when an earlier call did it
--   bad_rate, bad_quantity, unknown_shape, too_large
--   wallet_frozen
--   stale_account  account_rev of the ledger
--   repeated  same body (0 or 1), reservation_id: of the earlier request with this Idempotency-Key
--   outbox_full  backlog
--   bad_limits
--   stale_windows  now_ms
--   insufficient_credits  estimate_nano, available_nano, balance_nano
--   spend_limit, rate_limit, concurrency_limit  estimate_nano, available_nano, balance_nano, row (from 0; the one that refuses longest), left, retry_after_ms (0: when others end, -1: never)
--   credit_held  estimate_nano, available_nano, balance_nano: also while a running answer waits to grow
--
-- writes: due, account, reservation, once, out and shard where time has done something, and the scope records that
--         limits count in.

-- A plain request: flat prices, no limits, no Idempotency-Key, and a wallet whose one grant pays for all of it. It
-- pays for nothing else. Whatever is not plain falls through to the general path, which begins again: nothing has
-- been written by then.
-- uses: clock, read, rate
local values
if ARGV[4] == '' and #ARGV == 4 and #KEYS == 5 then
  local now, epoch, seen, max_backlog, rev, tokens, ttl, bits, mask, n, rows_size, costs_size, ids_size =
    sunpack('<dddddddIBBHHH', ARGV[1])
  local id, body = ARGV[2], ARGV[3]
  values = read(3)
  local raw_shard, raw = values[1], values[2]
  if raw_shard and raw and not values[3] and mask == 0 and rows_size == 18 * n and (costs_size == 0 or costs_size == rows_size)
    and #body >= 16 * n + rows_size + costs_size + ids_size and #id > 0 and #id <= MAX_ID
    and now >= 0 and now <= MAX_AMOUNT and now % 1 == 0 and epoch >= 0 and epoch % 1 == 0
    and seen >= 0 and seen <= MAX_AMOUNT and seen % 1 == 0 and max_backlog >= 0 and max_backlog <= MAX_AMOUNT and max_backlog % 1 == 0
    and tokens >= 0 and tokens <= MAX_AMOUNT and tokens % 1 == 0 and ttl > 0 and ttl <= MAX_AMOUNT and ttl % 1 == 0 then
    local layout, state, _, shard_epoch, last_seq, acked_seq, acked_epoch = sunpack(SHARD, raw_shard)
    local _, status, n_grants, _, _, _, _, _, account_rev, limit, debt, held, held_credit, open =
      sunpack('<BBBBBBBBdddddd', raw)
    if layout == 1 and state == 0 and epoch <= shard_epoch and (epoch < shard_epoch or seen <= last_seq + 1)
      and (max_backlog == 0 or last_seq - (acked_epoch == shard_epoch and acked_seq or -1) < max_backlog)
      and status == 0 and n_grants == 1 and account_rev == rev then
      local sweep_at, wanted, _, _, _, scope, no, remaining, grant_held, effective_at, expires_at =
        sunpack('<ddBBHIddddd', raw, POSITION_OF_SWEEP_AT)
      local estimate = rate(body, 16 * n + 1, rows_size, body, 1, n)
      if now == 0 then now = clock(0) end
      local free = remaining - grant_held
      local available = free - debt - held_credit + limit
      if estimate and estimate > 0 and estimate <= free and estimate <= available and scope == 0 and now < sweep_at
        and wanted <= now and effective_at <= now and (expires_at == 0 or now < expires_at) then
        local deadline = now + ttl
        -- write
        call('ZADD', KEYS[1], deadline, id)
        call('MSET', KEYS[4], sub(raw, 1, POSITION_OF_HELD - 1) .. spack('<ddd', held + estimate, held_credit, open + 1)
          .. sub(raw, POSITION_OF_HELD + 24, POSITION_OF_FIRST_HELD - 1) .. spack('<d', grant_held + estimate) .. sub(raw, POSITION_OF_FIRST_HELD + 8),
          KEYS[5], spack('<BBBBBBHHHIddddddd', PENDING, 0, 1, 0, n, 0, rows_size, costs_size, ids_size, bits,
            estimate, now, deadline, 0, tokens, no, estimate) .. body)
        return { 'held', estimate, available - estimate, now, deadline }
      end
    end
  end
end


-- general
-- uses: whole, open_shard, read_account, pack_account, read_scopes, names_last, store, credit
-- uses: allocate, count_in
-- read
local head = { sunpack('<dddddddIBBHHH', ARGV[1]) }
local id, body, n, once = ARGV[2], ARGV[3], head[10], ARGV[5]
if not whole(head) or #id == 0 or #id > MAX_ID or head[7] == 0
  or #body < 16 * n + head[11] + head[12] + head[13]
  or not (head[12] == 0 or head[12] == 18 * n) or #ARGV[4] % 46 ~= 0
  or once and not names_last(once, IDEMPOTENCY_DIGEST, head[9]) then
  return { 'bad_arguments' }
end
values = values or read(3)
local shard, closed = open_shard(values[1], head[2], head[3])
if not shard then return { closed } end
if not values[2] then return { 'unknown_account' } end
local now, bits, mask = clock(head[1]), head[8], head[9]
local a, told = read_account(values[2]), {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end
local available, payable, balance = credit(a, bits, now)

-- decide
local earlier = values[3]
if earlier then
  if byte(earlier, 1) ~= PENDING then
    -- uses: OUTCOMES
    return { 'already_ended', OUTCOMES[byte(earlier, 1)] }
  end
  local h = { sunpack(HOLD, earlier) }
  local at, same = offset_of_estimate(h), body
  if h[H_EXTEND_NO] > 0 then -- extended: its vectors are no longer those of the reserve
    at, same = at + 16 * n, string.sub(body, 16 * n + 1)
  end
  if h[H_UNITS] ~= n or string.sub(earlier, at) ~= same then
    return { 'exists_with_different_parameters' }
  end
  return { 'held', h[H_HELD], available, h[H_RESERVED_AT], h[H_DEADLINE] }
end
local meter = head[11] ~= 18 * n and { a = a, mode = 'hold', opens = true, now = now, moves = nil, next_marks = nil }
local estimate, wrong = rate(body, 16 * n + 1, head[11], body, 1, n, nil, meter)
if not estimate then return { wrong } end
if a[STATUS] ~= 0 then return { 'wallet_frozen' } end
if a[ACCOUNT_REV] ~= head[5] then return { 'stale_account', a[ACCOUNT_REV] } end
local first = once and values[#KEYS - 2]
if first then
  return { 'repeated', string.sub(first, 1, IDEMPOTENCY_DIGEST) == once and 1 or 0, string.sub(first, IDEMPOTENCY_DIGEST + 1) }
end
local backlog = shard[LAST_SEQ] - (shard[ACKED_EPOCH] == shard[EPOCH] and shard[ACKED_SEQ] or -1)
if head[4] > 0 and backlog >= head[4] then return { 'outbox_full', backlog } end
local scopes = read_scopes(a, values, 4, mask, true)
local limits, refusal = count_in(scopes, ARGV[4], now, estimate, head[6])
if not limits and #refusal == 1 then
  if refusal[1] == 'stale_windows' then refusal[2] = now end
  return refusal
end
if estimate > 0 and estimate > payable then
  return { 'insufficient_credits', estimate, available, balance }
end
if not limits then
  return { refusal[1], estimate, available, balance, refusal[2], refusal[3], refusal[4] }
end
local wanted = a[GROWTH_WANTED] - now -- a mark further ahead is of a clock that has jumped
if estimate > 0 and (estimate > available or wanted > 0 and wanted <= GROWTH_MARK_MS) then
  return { 'credit_held', estimate, available, balance }
end
local allocations = { nil, nil }
if meter then
  -- uses: count_periods
  count_periods(a, meter)
end
local marks = meter and meter.next_marks or ''
allocate(a, estimate, bits, now, allocations)
a[OPEN] = a[OPEN] + 1
local n_allocations, n_limits, deadline = #allocations / 2, #limits / HELD_LIMIT_SIZE, now + head[7]
local hold = spack(HOLD, PENDING, #marks / 16, n_allocations, n_limits, n, mask, head[11], head[12],
    head[13], bits, estimate, now, deadline, 0, head[6])
  .. spack('<' .. rep('dd', n_allocations), unpack(allocations))
  .. limits .. marks .. body

-- write
local pairs = { KEYS[4], pack_account(a), KEYS[5], hold, nil, nil, nil, nil }
if #told > 0 then
  -- uses: tell
  tell(KEYS[2], shard, KEYS[4], now, told)
  pairs[5], pairs[6] = KEYS[3], pack_shard(shard)
end
call('ZADD', KEYS[1], deadline, id)
if once then call('SET', KEYS[#KEYS], once .. id, 'PX', IDEMPOTENCY_TTL_MS) end
store(pairs, scopes, 6, mask)
return { 'held', estimate, available - estimate, now, deadline }
