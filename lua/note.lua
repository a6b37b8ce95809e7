#!lua flags=allow-oom
-- note: writes an entry about a change that moves no balance: who did what, to what, and why (README, Notes).
-- Done once per operation id while its tombstone lives; an id must not be used again after that. It asks
-- for no account, and makes the shard's record if there is none.
--
-- KEYS[1] shard
-- KEYS[2] tombstone
-- KEYS[3] out
-- ARGV[1] times  <ddd: now_ms (0: the ledger's clock), seen_epoch, seen_count
-- ARGV[2] op_id
-- ARGV[3] facts
--
-- replies, the first that applies:
--   bad_arguments
--   went_back, wrong_layout, shard_frozen: the shard
--   noted  epoch, seq, replayed (0 or 1)
--
-- writes: out, shard, tombstone.

-- uses: whole, clock, open_shard, emit

-- read
local times, id = { sunpack('<ddd', ARGV[1]) }, ARGV[2]
if not whole(times) or #id == 0 or #id > MAX_ID then return { 'bad_arguments' } end
local raw_shard, earlier = call('GET', KEYS[1]), call('GET', KEYS[2])
local shard, closed = open_shard(raw_shard, times[2], times[3])
if not shard then
  if closed ~= 'unknown_account' then return { closed } end
  shard = { 1, 0, 0, 1, -1, -1, 0 }
end
local now = clock(times[1])

-- decide
if earlier then
  local did = { sunpack('<dd', earlier) }
  return { 'noted', did[1], did[2], 1 }
end

-- write
emit(KEYS[3], shard, 'audit', id, now, 0, 0, false, 0, {}, {}, ARGV[3])
local epoch, seq = shard[EPOCH], shard[LAST_SEQ]
call('SET', KEYS[2], spack('<dd', epoch, seq), 'PX', TOMBSTONE_TTL_MS)
call('SET', KEYS[1], pack_shard(shard))
return { 'noted', epoch, seq, 0 }
