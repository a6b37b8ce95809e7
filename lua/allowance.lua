#!lua flags=allow-oom
-- allowance: sets the terms of a grant that recurs each period, or ends it (amount 0). Its first period
-- opens at once, in full; other terms hold from its next period on.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
-- ARGV[2] terms  <IBBBBIdd: allowance id, kind of period (1 minute … 6 total), category, priority,
--               day of the month (0: the billing day), scope bits, amount_nano (0: ends it), rollover_max_nano
-- ARGV[3] facts
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   unchanged: it has these terms already
--   too_many_allowances
--   updated  balance_nano, epoch, seq
--
-- writes: out, shard, account.

-- uses: whole, clock, open_shard, read_account, pack_account, insert, credit, notice, emit

-- read
local times, terms = { sunpack('<ddd', ARGV[1]) }, { sunpack('<IBBBBIdd', ARGV[2]) }
terms[#terms] = nil
if not whole(times) or not whole(terms) or terms[2] < 1 or terms[2] > 6 or terms[3] < 1 or terms[3] > 4
  or terms[5] > 31 then
  return { 'bad_arguments' }
end
local raw_shard, raw = call('GET', KEYS[1]), call('GET', KEYS[2])
call('XLEN', KEYS[3]) -- its type
local shard, closed = open_shard(raw_shard, times[2], times[3])
if not shard then return { closed } end
if not raw then return { 'unknown_account' } end
local now = clock(times[1])
local a, told, opened = read_account(raw), {}, {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end

-- decide
local first = first_allowance(a)
local w, same = first, true
while w < first + 12 * a[N_ALLOWANCES] and a[w] ~= terms[1] do w = w + 12 end
local known = w < first + 12 * a[N_ALLOWANCES]
for i = 2, 8 do same = same and a[w + i - 1] == terms[i] end
if known and same or not known and terms[7] == 0 then return { 'unchanged' } end
if terms[7] == 0 then
  for i = w, #a do a[i] = a[i + 12] end
  a[N_ALLOWANCES] = a[N_ALLOWANCES] - 1
elseif known then
  for i = 2, 8 do a[w + i - 1] = terms[i] end
elseif a[N_ALLOWANCES] >= MAX_ALLOWANCES then
  return { 'too_many_allowances' }
else
  for i = 9, 12 do terms[i] = 0 end
  insert(a, w, terms)
  a[N_ALLOWANCES] = a[N_ALLOWANCES] + 1
end
local _, _, before = credit(a, 0, now)
-- uses: catch_up
catch_up(a, now, opened)
local _, _, balance = credit(a, 0, now)
local signals = notice(a, balance, now, 0)

-- write
-- uses: tell
tell(KEYS[3], shard, KEYS[2], now, told)
local customer = string.match(KEYS[2], '^{[^}]*}:a:(.*)$')
emit(KEYS[3], shard, 'allowance', format('allowance:%s:%.0f:set:%.0f-%.0f', customer, terms[1], shard[EPOCH],
  shard[LAST_SEQ] + 1), now, 0, 0, false, before, {}, {}, ARGV[3], signals)
tell(KEYS[3], shard, KEYS[2], now, opened)
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
return { 'updated', balance, shard[EPOCH], shard[LAST_SEQ] }
