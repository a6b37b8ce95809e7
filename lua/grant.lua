#!lua flags=allow-oom
-- grant: adds dated credit to a wallet, done once per operation id. What is active now and
-- good for every model repays the overdraft first; only the rest becomes the grant's remainder.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] ops
-- KEYS[4] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
-- ARGV[2] op_id
-- ARGV[3] terms  <BBIddd: category, priority, scope bits, amount_nano, effective_at_ms (0: no condition), expires_at_ms (0: never)
-- ARGV[4] facts
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   exists_with_different_parameters
--   already_expired
--   too_many_grants
--   total_too_large
--   granted  grant_no, balance_nano, epoch, seq, replayed (0 or 1)
--
-- writes: out, ops, shard, account.

-- uses: whole, clock, open_shard, read_account, pack_account, credit, drop_exhausted, credit_grant
-- uses: notice, emit

-- read
local times, terms = { sunpack('<ddd', ARGV[1]) }, { sunpack('<BBIddd', ARGV[3]) }
local id, amount = ARGV[2], terms[4]
if not whole(times) or not whole(terms) or #id == 0 or #id > MAX_ID or amount == 0
  or terms[1] < 1 or terms[1] > 4 then
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
  if did[1] ~= 'grant' or did[2] ~= ARGV[3] then return { 'exists_with_different_parameters' } end
  local _, _, balance = credit(a, 0, now)
  return { 'granted', did[3], balance, did[5], did[6], 1 }
end
local effective_at, expires_at = terms[5], terms[6]
if expires_at > 0 and (expires_at <= now or expires_at <= effective_at) then
  return { 'already_expired' }
end
drop_exhausted(a)
if a[N_GRANTS] >= MAX_GRANTS then return { 'too_many_grants' } end
if a[GRANTED] + amount > MAX_AMOUNT then return { 'total_too_large' } end
local credited = {}
local no = credit_grant(a, terms[1], terms[2], terms[3], amount, effective_at, expires_at, now, credited)
local _, _, balance = credit(a, 0, now)
local signals = notice(a, balance, now, 0)

-- write
-- uses: tell
tell(KEYS[4], shard, KEYS[2], now, told)
emit(KEYS[4], shard, 'grant', id, now, amount, 0, false, balance, credited, {}, ARGV[4], signals)
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
call('HSET', KEYS[3], id, cmsgpack.pack({ 'grant', ARGV[3], no, now, epoch, seq, ARGV[4] }))
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
return { 'granted', no, balance, epoch, seq, 0 }
