#!lua flags=allow-oom
-- reopen: lets a frozen shard serve again, in a new epoch. What its outbox has and the store has not
-- gets places in the new epoch, for the store has other events at the old ones; the rest is trimmed.
-- What whoever froze the shard knew of, and neither it nor the store has, is noted as lost.
--
-- KEYS[1] out
-- KEYS[2] shard
-- KEYS[3] loss
-- KEYS[4] tombstones  of the entries that are kept, in their order; of what ends no reservation, the outbox again
-- ARGV[1] stored  <ddddddd: epoch and seq of the store's last event of this shard; up to where the caller has seen
--                 its events applied; the shard's last entry when the caller read the outbox; now_ms (0: the
--                 ledger's clock)
-- ARGV[2] kept  msgpack list of entry ids, `epoch-seq`, in order
--
-- replies, the first that applies:
--   bad_arguments
--   wrong_layout
--   open  epoch, last_seq: an earlier call did it, or it was never shut
--   went_back  epoch, last_seq: it has lost entries since the caller read the outbox
--   not_reapplied  epoch, seq: it has lost what was applied behind this place
--   reopened  epoch, kept, and of what is lost: the place before the first, and the last one (epoch, seq); all 0
--             where nothing is
--
-- writes: out, shard, loss, tombstones.

-- uses: clock

-- read
local stored = { sunpack('<ddddddd', ARGV[1]) }
local kept = cmsgpack.unpack(ARGV[2])
if not (stored[1] >= 1 and stored[2] >= -1 and stored[7] >= 0 and #KEYS == 3 + #kept) then return { 'bad_arguments' } end
local raw, known = call('GET', KEYS[2]), call('GET', KEYS[3])
local shard = raw and { sunpack(SHARD, raw) } or { 1, 0, 0, 1, -1, -1, 0 }
local loss = known and { sunpack(LOSS, known) } or { 1, 0, 0, 0, 0, 0, 0, 0, 0 }
local entries, tombstones = {}, {}
for i = 1, #kept do
  entries[i] = call('XRANGE', KEYS[1], kept[i], kept[i])[1]
  if KEYS[3 + i] ~= KEYS[1] then tombstones[i] = call('GET', KEYS[3 + i]) end
end
call('XLEN', KEYS[1]) -- its type
local now = clock(stored[7])

-- decide
if shard[1] ~= 1 then return { 'wrong_layout' } end
if shard[STATE] == 0 then return { 'open', shard[EPOCH], shard[LAST_SEQ] } end
if shard[EPOCH] ~= stored[5] or shard[LAST_SEQ] ~= stored[6] or #entries < #kept then
  return { 'went_back', shard[EPOCH], shard[LAST_SEQ] }
end
if shard[ACKED_EPOCH] < stored[3] or (shard[ACKED_EPOCH] == stored[3] and shard[ACKED_SEQ] < stored[4]) then
  return { 'not_reapplied', shard[ACKED_EPOCH], shard[ACKED_SEQ] }
end
if shard[ACKED_EPOCH] < stored[1] or (shard[ACKED_EPOCH] == stored[1] and shard[ACKED_SEQ] < stored[2]) then
  shard[ACKED_EPOCH], shard[ACKED_SEQ] = stored[1], stored[2]
end
local seen_epoch, seen_seq = loss[SEEN_EPOCH], loss[SEEN_COUNT] - 1
local epoch = math.max(shard[EPOCH], stored[1], seen_epoch) + 1
local after_epoch, after_seq = shard[EPOCH], shard[LAST_SEQ]
if stored[1] > after_epoch or (stored[1] == after_epoch and stored[2] > after_seq) then
  after_epoch, after_seq = stored[1], stored[2]
end
loss[SEEN_EPOCH], loss[SEEN_COUNT] = 0, 0
local lost = { 0, 0, 0, 0 }
if seen_epoch > after_epoch or (seen_epoch == after_epoch and seen_seq > after_seq) then
  lost = { after_epoch, after_seq, seen_epoch, seen_seq }
  loss[LOSS_EPOCH], loss[LOSS_AT], loss[AFTER_EPOCH], loss[AFTER_SEQ] = epoch, now, after_epoch, after_seq
  loss[LOST_EPOCH], loss[LOST_SEQ] = seen_epoch, seen_seq
end

-- write
for i = 1, #kept do
  call('XADD', KEYS[1], format('%.0f-%.0f', epoch, i - 1), unpack(entries[i][2]))
  if tombstones[i] and byte(tombstones[i], 1) ~= PENDING then
    local e = { sunpack(ENDED, tombstones[i]) }
    local rest = string.sub(tombstones[i], ended_offset_of_allocations(e))
    e[E_EPOCH], e[E_SEQ] = epoch, i - 1
    call('SET', KEYS[3 + i], spack(ENDED, unpack(e, 1, E_SEQ)) .. rest, 'KEEPTTL')
  end
end
call('XTRIM', KEYS[1], 'MINID', '=', format('%.0f-0', epoch))
call('SET', KEYS[2], spack(SHARD, 1, 0, 0, epoch, #kept - 1, shard[ACKED_SEQ], shard[ACKED_EPOCH]))
if known then call('SET', KEYS[3], spack(LOSS, unpack(loss, 1, LOST_SEQ))) end
return { 'reopened', epoch, #kept, unpack(lost) }
