#!lua flags=allow-oom
-- adjust: a signed correction of a wallet, done once per operation id; its facts name the
-- event that it corrects. Credit repays the overdraft, the rest becomes a grant that never expires
-- (of priority 255 it joins an open one of these terms);
-- debit takes unheld remainders in burn order whatever they are good for, then overdraft.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] ops
-- KEYS[4] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
-- ARGV[2] op_id
-- ARGV[3] terms  <BBd: debit (0 or 1), priority of the grant it makes, amount_nano
-- ARGV[4] facts
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   exists_with_different_parameters
--   too_many_grants
--   total_too_large
--   adjusted  balance_nano, epoch, seq, replayed (0 or 1)
--
-- writes: out, ops, shard, account.

-- uses: whole, clock, open_shard, read_account, pack_account, credit, take, drop_exhausted
-- uses: credit_back, notice, emit

-- read
local times, terms = { sunpack('<ddd', ARGV[1]) }, { sunpack('<BBd', ARGV[3]) }
local id, amount = ARGV[2], terms[3]
if not whole(times) or not whole(terms) or #id == 0 or #id > MAX_ID or amount == 0 or terms[1] > 1 then
  return { 'bad_arguments' }
end
local raw_shard, raw, earlier = call('GET', KEYS[1]), call('GET', KEYS[2]), call('HGET', KEYS[3], id)
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
if earlier then
  local did = cmsgpack.unpack(earlier)
  if did[1] ~= 'adjust' or did[2] ~= ARGV[3] then return { 'exists_with_different_parameters' } end
  local _, _, balance = credit(a, 0, now)
  return { 'adjusted', balance, did[5], did[6], 1 }
end
local signed = terms[1] == 1 and 0 - amount or amount
local moved = {}
if signed < 0 then
  take(a, amount, 4294967295, now, moved)
  for i = 2, #moved, 2 do moved[i] = 0 - moved[i] end
else
  drop_exhausted(a)
  credit_back(a, amount, terms[2], now, moved)
  if a[N_GRANTS] > MAX_GRANTS then return { 'too_many_grants' } end
end
a[ADJUSTED] = a[ADJUSTED] + signed
if math.abs(a[ADJUSTED]) > MAX_AMOUNT or a[OVERDRAFT] > MAX_AMOUNT then return { 'total_too_large' } end
local _, _, balance = credit(a, 0, now)
local signals = notice(a, balance, now, 0)

-- write
-- uses: tell
tell(KEYS[4], shard, KEYS[2], now, told)
emit(KEYS[4], shard, 'adjust', id, now, signed, 0, false, balance, moved, {}, ARGV[4], signals)
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
call('HSET', KEYS[3], id, cmsgpack.pack({ 'adjust', ARGV[3], 0, now, epoch, seq, ARGV[4] }))
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
return { 'adjusted', balance, epoch, seq, 0 }
