#!lua flags=allow-oom
-- freeze: shuts a shard that has lost entries of its outbox, in the shard's own record, until `reopen`.
-- Whoever found it shows what it knows; a shard that has all of that stays as it is.
--
-- KEYS[1] shard
-- KEYS[2] loss  keeps the highest entry that any of them knew of, until `reopen`
-- ARGV[1] evidence  <ddB: epoch, count (one more than the highest seq that is known in it), conflict (0 or 1: the store
--                   has another event at a place of this outbox)
--
-- replies, the first that applies:
--   bad_arguments
--   wrong_layout
--   frozen  epoch, last_seq, changed (0 or 1)
--   intact  epoch, last_seq: it has all of that
--
-- writes: shard, loss.

-- uses: whole

-- read
local evidence = { sunpack('<ddB', ARGV[1]) }
if not whole(evidence) or evidence[3] > 1 then return { 'bad_arguments' } end
local raw = call('GET', KEYS[1])
local shard = raw and { sunpack(SHARD, raw) } or { 1, 0, 0, 1, -1, -1, 0 }
local epoch, count = evidence[1], evidence[2]
local known = call('GET', KEYS[2])
local loss = known and { sunpack(LOSS, known) } or { 1, 0, 0, 0, 0, 0, 0, 0, 0 }

-- decide
if shard[1] ~= 1 then return { 'wrong_layout' } end
local before, behind = shard[STATE], shard[EPOCH] < epoch or (shard[EPOCH] == epoch and shard[LAST_SEQ] + 1 < count)
if before == 0 and not behind and evidence[3] == 0 then return { 'intact', shard[EPOCH], shard[LAST_SEQ] } end
shard[STATE] = 1
local more = count > 0 and (epoch > loss[SEEN_EPOCH] or (epoch == loss[SEEN_EPOCH] and count > loss[SEEN_COUNT]))
if more then loss[SEEN_EPOCH], loss[SEEN_COUNT] = epoch, count end

-- write
if before == 0 then call('SET', KEYS[1], pack_shard(shard)) end
if more then call('SET', KEYS[2], spack(LOSS, unpack(loss, 1, LOST_SEQ))) end
return { 'frozen', shard[EPOCH], shard[LAST_SEQ], before == 0 and 1 or 0 }
