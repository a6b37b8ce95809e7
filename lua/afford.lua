#!lua flags=no-writes
-- afford: how much of a request its wallet can pay for: `least`, and as many steps more as are
-- available now. Reads only.
--
-- KEYS[1] shard
-- KEYS[2] account
-- ARGV[1] head  <ddddIB: now_ms (0: the ledger's clock), seen_epoch, seen_count, steps, scope bits, n units
-- ARGV[2] least  vector
-- ARGV[3] step  vector: what each step adds
-- ARGV[4] price rows
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   bad_rate, bad_quantity, unknown_shape, too_large
--   wallet_frozen, insufficient_credits, credit_held  estimate_nano, available_nano, balance_nano: of the least
--   affordable  estimate_nano, available_nano, balance_nano, steps (0 … those asked for), open: reservations of the wallet
--
-- writes: nothing.

-- uses: whole, clock, read, open_shard, read_account, rate, credit

-- read
local head = { sunpack('<ddddIB', ARGV[1]) }
local n, steps = head[6], head[4]
if not whole(head) or #ARGV[2] ~= 8 * n or #ARGV[3] ~= 8 * n then
  return { 'bad_arguments' }
end
local values = read(1)
local shard, closed = open_shard(values[1], head[2], head[3])
if not shard then return { closed } end
if not values[2] then return { 'unknown_account' } end
local now = clock(head[1])
local a = read_account(values[2])
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, {})
end
local least, step = { sunpack('<' .. rep('d', n), ARGV[2]) }, { sunpack('<' .. rep('d', n), ARGV[3]) }
local function estimate_of(k)
  local vector = {}
  for i = 1, n do vector[i] = least[i] + k * step[i] end
  return rate(ARGV[4], 1, #ARGV[4], spack('<' .. rep('d', n), unpack(vector)), 1, n, nil,
    { a = a, mode = 'hold', opens = true, now = now })
end
local estimate, wrong = estimate_of(0)
if not estimate then return { wrong } end
local available, payable, balance = credit(a, head[5], now)

-- decide
local wanted = a[GROWTH_WANTED] - now
if a[STATUS] ~= 0 then return { 'wallet_frozen', estimate, available, balance } end
if estimate > 0 and estimate > payable then
  return { 'insufficient_credits', estimate, available, balance }
end
if estimate > 0 and (estimate > available or wanted > 0 and wanted <= GROWTH_MARK_MS) then
  return { 'credit_held', estimate, available, balance }
end
local fits, beyond = 0, steps + 1
while beyond - fits > 1 do -- what is too large to be rated is too large to be paid
  local k = fits + floor((beyond - fits) / 2)
  local more = estimate_of(k)
  if more and more <= available then
    fits, estimate = k, more
  else
    beyond = k
  end
end
return { 'affordable', estimate, available, balance, fits, a[OPEN] }
