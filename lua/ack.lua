#!lua flags=allow-oom
-- ack: what the required store has taken is trimmed from the outbox, and recorded.
--
-- KEYS[1] out
-- KEYS[2] shard
-- ARGV[1] place  <dd: epoch, seq: this entry and all before it are stored
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_shard
--   wrong_layout
--   shard_frozen: what a shard that has lost a tail still has is evidence
--   not_written  epoch, last_seq: beyond what the outbox has had
--   acked  epoch, seq: now, or further by an earlier call
--
-- writes: out, shard.

-- uses: whole

-- read
local place = { sunpack('<dd', ARGV[1]) }
if not whole(place) then return { 'bad_arguments' } end
local raw = call('GET', KEYS[2])
if not raw then return { 'unknown_shard' } end
local shard = { sunpack(SHARD, raw) }
local epoch, seq = place[1], place[2]

-- decide
if shard[1] ~= 1 then return { 'wrong_layout' } end
if shard[STATE] ~= 0 then return { 'shard_frozen' } end
if epoch > shard[EPOCH] or (epoch == shard[EPOCH] and seq > shard[LAST_SEQ]) then
  return { 'not_written', shard[EPOCH], shard[LAST_SEQ] }
end
if epoch < shard[ACKED_EPOCH] or (epoch == shard[ACKED_EPOCH] and seq <= shard[ACKED_SEQ]) then
  return { 'acked', shard[ACKED_EPOCH], shard[ACKED_SEQ] }
end
shard[ACKED_EPOCH], shard[ACKED_SEQ] = epoch, seq

-- write
call('XTRIM', KEYS[1], 'MINID', '=', format('%.0f-%.0f', epoch, seq + 1))
call('SET', KEYS[2], pack_shard(shard))
return { 'acked', epoch, seq }
