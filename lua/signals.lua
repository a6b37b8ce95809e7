#!lua flags=allow-oom
-- signals: says what a wallet announces from now on (README, Signals). A threshold that the balance
-- is below already is announced at once.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
-- ARGV[2] rules  <BBddddddddd + n × <d
-- ARGV[3] facts
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   unchanged: the rules are these already
--   updated  balance_nano, epoch, seq
--
-- writes: out, shard, account.

-- uses: whole, clock, open_shard, read_account, pack_account, credit, set_signals, notice, announce

-- read
local times, rules = { sunpack('<ddd', ARGV[1]) }, ARGV[2]
local n, flags = byte(rules, 1, 2)
if not whole(times) or not flags or flags > 3 or n > MAX_THRESHOLDS or #rules ~= 74 + 8 * n then
  return { 'bad_arguments' }
end
local numbers = { sunpack('<' .. rep('d', 9 + n), rules, 3) }
numbers[#numbers] = nil
local ordered = whole(numbers)
for i = 10, 9 + n do ordered = ordered and numbers[i] > (i > 10 and numbers[i - 1] or 0) end
if not ordered then return { 'bad_arguments' } end
local silent = n == 0 and flags == 0 and numbers[1] == 0 and numbers[3] == 0 and numbers[7] == 0
local raw_shard, raw = call('GET', KEYS[1]), call('GET', KEYS[2])
local shard, closed = open_shard(raw_shard, times[2], times[3])
if not shard then return { closed } end
if not raw then return { 'unknown_account' } end
local now = clock(times[1])
local a, told = read_account(raw), {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end

-- decide
if not set_signals(a, rules, silent) then return { 'unchanged' } end
local _, _, balance = credit(a, 0, now)
local signals = notice(a, balance, now, 0, true)

-- write
-- uses: tell
tell(KEYS[3], shard, KEYS[2], now, told)
announce(KEYS[3], shard, KEYS[2], now, balance, signals, ARGV[3])
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
return { 'updated', balance, shard[EPOCH], shard[LAST_SEQ] }
