#!lua flags=allow-oom
-- sweep: does what time alone has made due in a wallet that nobody uses: expires grants, opens the
-- periods of allowances, announces what is due. Every script that writes a wallet does the same first.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   swept  entries, balance_nano, sweep_at_ms: when it is due next, epoch, seq (0, 0: nothing was due)
--
-- writes: out, shard, account.

-- uses: whole, clock, open_shard, read_account, pack_account, credit, notice, announce

-- read
local times = { sunpack('<ddd', ARGV[1]) }
if not whole(times) then return { 'bad_arguments' } end
local raw_shard, raw = call('GET', KEYS[1]), call('GET', KEYS[2])
call('XLEN', KEYS[3]) -- its type
local shard, closed = open_shard(raw_shard, times[2], times[3])
if not shard then return { closed } end
if not raw then return { 'unknown_account' } end
local now = clock(times[1])
local a, told = read_account(raw), {}

-- decide
if now < a[SWEEP_AT] then
  local _, _, balance = credit(a, 0, now)
  return { 'swept', 0, balance, a[SWEEP_AT], 0, 0 }
end
-- uses: catch_up
catch_up(a, now, told)
local _, _, balance = credit(a, 0, now)
local signals, entries = notice(a, balance, now, 0), #told

-- write
-- uses: tell
tell(KEYS[3], shard, KEYS[2], now, told)
if signals then
  announce(KEYS[3], shard, KEYS[2], now, balance, signals)
  entries = entries + 1
end
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
if entries == 0 then return { 'swept', 0, balance, a[SWEEP_AT], 0, 0 } end
return { 'swept', entries, balance, a[SWEEP_AT], shard[EPOCH], shard[LAST_SEQ] }
