#!lua flags=allow-oom
-- void: takes back what is left of a grant and ends it, done once per operation id. What
-- running requests hold of it they may still spend; what they give back expires.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] ops
-- KEYS[4] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
-- ARGV[2] op_id
-- ARGV[3] terms  <d: grant_no
-- ARGV[4] facts
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   exists_with_different_parameters
--   unknown_grant: the wallet has none of this number, or nothing unheld is left of it
--   total_too_large
--   voided  voided_nano, held_nano, balance_nano, epoch, seq, replayed (0 or 1)
--
-- writes: out, ops, shard, account.

-- uses: whole, clock, open_shard, read_account, pack_account, credit, find_grant, notice, emit

-- read
local times, terms = { sunpack('<ddd', ARGV[1]) }, { sunpack('<d', ARGV[3]) }
local id, no = ARGV[2], terms[1]
if not whole(times) or not whole(terms) or #id == 0 or #id > MAX_ID or no == 0 then
  return { 'bad_arguments' }
end
local raw_shard, raw, earlier = call('GET', KEYS[1]), call('GET', KEYS[2]), call('HGET', KEYS[3], id)
local shard, closed = open_shard(raw_shard, times[2], times[3])
if not shard then return { closed } end
if not raw then return { 'unknown_account' } end
local now, told = clock(times[1]), {}
local a = read_account(raw)

-- decide
if earlier then
  local did = cmsgpack.unpack(earlier)
  if did[1] ~= 'void' or did[2] ~= ARGV[3] then return { 'exists_with_different_parameters' } end
  local _, _, balance = credit(a, 0, now)
  return { 'voided', did[3], 0, balance, did[5], did[6], 1 }
end
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end
local g = find_grant(a, no)
local taken = g and a[g + REMAINING] - a[g + GRANT_HELD] or 0
if taken == 0 then return { 'unknown_grant' } end
if a[VOIDED] + taken > MAX_AMOUNT then return { 'total_too_large' } end
a[g + REMAINING], a[g + EXPIRES_AT], a[VOIDED] = a[g + GRANT_HELD], now, a[VOIDED] + taken
local held = a[g + GRANT_HELD]
local _, _, balance = credit(a, 0, now)
local signals = notice(a, balance, now, 0)

-- write
-- uses: tell
tell(KEYS[4], shard, KEYS[2], now, told)
emit(KEYS[4], shard, 'void', id, now, taken, 0, false, balance, { no, taken }, {}, ARGV[4], signals)
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
call('HSET', KEYS[3], id, cmsgpack.pack({ 'void', ARGV[3], taken, now, epoch, seq, ARGV[4] }))
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
return { 'voided', taken, held, balance, epoch, seq, 0 }
