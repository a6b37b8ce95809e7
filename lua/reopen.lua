#!lua flags=allow-oom
-- reopen: lets a frozen shard serve again, in a new epoch. What its outbox has and the store has not
-- gets places in the new epoch, for the store has other events at the old ones; the rest is trimmed.
--
-- KEYS[1] out
-- KEYS[2] shard
-- KEYS[3] tombstones  of the entries that are kept, in their order; of what ends no reservation, the outbox again
-- ARGV[1] stored  <ddB: epoch and seq of the store's last event of this shard, accept (0 or 1: open although events
--                 before it were not applied)
-- ARGV[2] kept  msgpack list of entry ids, `epoch-seq`, in order
--
-- replies, the first that applies:
--   bad_arguments
--   wrong_layout
--   open  epoch, last_seq: an earlier call did it, or it was never shut
--   not_reapplied  epoch, seq: the store has events behind this place that were not applied
--   reopened  epoch, kept
--
-- writes: out, shard, tombstones.


-- read
local stored = { sunpack('<ddB', ARGV[1]) }
local kept = cmsgpack.unpack(ARGV[2])
if not (stored[1] >= 1 and stored[2] >= -1 and stored[3] <= 1 and #KEYS == 2 + #kept) then return { 'bad_arguments' } end
local raw = call('GET', KEYS[2])
local shard = raw and { sunpack(SHARD, raw) } or { 1, 0, 0, 1, -1, -1, 0 }
local entries, tombstones = {}, {}
for i = 1, #kept do
  entries[i] = call('XRANGE', KEYS[1], kept[i], kept[i])[1]
  if not entries[i] then return { 'bad_arguments' } end
  if KEYS[2 + i] ~= KEYS[1] then tombstones[i] = call('GET', KEYS[2 + i]) end
end
call('XLEN', KEYS[1]) -- its type

-- decide
if shard[1] ~= 1 then return { 'wrong_layout' } end
if shard[STATE] == 0 then return { 'open', shard[EPOCH], shard[LAST_SEQ] } end
if shard[ACKED_EPOCH] < stored[1] or (shard[ACKED_EPOCH] == stored[1] and shard[ACKED_SEQ] < stored[2]) then
  if stored[3] == 0 then return { 'not_reapplied', shard[ACKED_EPOCH], shard[ACKED_SEQ] } end
  shard[ACKED_EPOCH], shard[ACKED_SEQ] = stored[1], stored[2]
end
local epoch = math.max(shard[EPOCH], stored[1]) + 1

-- write
for i = 1, #kept do
  call('XADD', KEYS[1], format('%.0f-%.0f', epoch, i - 1), unpack(entries[i][2]))
  if tombstones[i] and byte(tombstones[i], 1) ~= PENDING then
    local e = { sunpack(ENDED, tombstones[i]) }
    local rest = string.sub(tombstones[i], ended_offset_of_allocations(e))
    e[E_EPOCH], e[E_SEQ] = epoch, i - 1
    call('SET', KEYS[2 + i], spack(ENDED, unpack(e, 1, E_SEQ)) .. rest, 'KEEPTTL')
  end
end
call('XTRIM', KEYS[1], 'MINID', '=', format('%.0f-0', epoch))
call('SET', KEYS[2], spack(SHARD, 1, 0, 0, epoch, #kept - 1, shard[ACKED_SEQ], shard[ACKED_EPOCH]))
return { 'reopened', epoch, #kept }
