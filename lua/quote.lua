#!lua flags=no-writes
-- quote: what a reserve with these parameters would answer now. Reads only.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] project  if the mask has 1; else the key
-- KEYS[4] key  if the mask has 1 and 2
-- ARGV[1] head  <ddddIBB: now_ms (0: the ledger's clock), seen_epoch, seen_count, tokens, scope bits,
--               mask of scopes given, n units
-- ARGV[2] estimate  vector
-- ARGV[3] price rows
-- ARGV[4] limits  as given to reserve
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   bad_rate, bad_quantity, unknown_shape, too_large
--   bad_limits
--   wallet_frozen, stale_windows, insufficient_credits, spend_limit, rate_limit, concurrency_limit, credit_held, allow
--     estimate_nano, available_nano, balance_nano: for all of these
--
-- writes: nothing.

-- uses: whole, clock, read, open_shard, read_account, read_scopes, rate, credit, count_in

-- read
local head = { sunpack('<ddddIBB', ARGV[1]) }
local n, mask = head[7], head[6]
if not whole(head) or #ARGV[2] ~= 8 * n or #ARGV[4] % 46 ~= 0 then return { 'bad_arguments' } end
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
local estimate, wrong = rate(ARGV[3], 1, #ARGV[3], ARGV[2], 1, n, nil,
  { a = a, mode = 'hold', opens = true, now = now })
if not estimate then return { wrong } end
local available, payable, balance = credit(a, head[5], now)
local wanted = a[GROWTH_WANTED] - now

-- decide
if a[STATUS] ~= 0 then return { 'wallet_frozen', estimate, available, balance } end
local limits, refusal = count_in(read_scopes(a, values, 3, mask, true), ARGV[4], now, estimate, head[4])
local word = 'allow'
if not limits and #refusal == 1 then
  if refusal[1] == 'bad_limits' then return { 'bad_limits' } end
  word = 'stale_windows'
elseif estimate > 0 and estimate > payable then
  word = 'insufficient_credits'
elseif not limits then
  word = refusal[1]
elseif estimate > 0 and (estimate > available or wanted > 0 and wanted <= GROWTH_MARK_MS) then
  word = 'credit_held'
end
return { word, estimate, available, balance }
