#!lua flags=allow-oom
-- release: gives a hold back whole. One that finds no hold leaves a tombstone, so that a reserve
-- which is still on its way comes too late. The Idempotency-Key of a request that was released may
-- be used again.
--
-- KEYS[1] due
-- KEYS[2] out
-- KEYS[3] shard
-- KEYS[4] account
-- KEYS[5] reservation
-- KEYS[6] project  if the mask has 1; else the key
-- KEYS[7] key  if the mask has 1 and 2
-- KEYS[8] once  if ARGV[4] is given: the last of KEYS, whatever the mask
-- ARGV[1] head  <ddddB: now_ms (0: the ledger's clock), seen_epoch, seen_count, reserved_at_ms (0 unknown),
--               mask of scopes given
-- ARGV[2] reservation_id
-- ARGV[3] facts
-- ARGV[4] once  empty; given only where the client sent an Idempotency-Key
--
-- replies, the first that applies:
--   bad_arguments
--   unknown_account, went_back, wrong_layout, shard_frozen: the shard
--   wrong_scopes  ids: the hold's limits count in records that were not given
--   too_old  now_ms: no hold, and a reserve this old cannot come any more
--   released, settled, expired, settled_late  charged_nano, balance_nano, epoch, seq (0, 0: no event), replayed (0 or 1)
--
-- writes: out, shard, account, reservation (tombstone), due, once, and the scope records of the hold; of
--         no hold, the tombstone and once alone.

-- uses: whole, clock, read, open_shard, read_account, pack_account, read_scopes, names_last, store
-- uses: credit, spend_hold, notice, count_out, emit

-- read
local head = { sunpack('<ddddB', ARGV[1]) }
local id = ARGV[2]
if not whole(head) or #id == 0 or #id > MAX_ID or ARGV[4] and not names_last(ARGV[4], 0, head[5]) then
  return { 'bad_arguments' }
end
local values = read(3)
local shard, closed = open_shard(values[1], head[2], head[3])
if not shard then return { closed } end
if not values[2] then return { 'unknown_account' } end
call('ZCARD', KEYS[1]) -- its type
local now, mask = clock(head[1]), head[5]
local a, told = read_account(values[2]), {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told)
end
local earlier = values[3]
local state = earlier and byte(earlier, 1)

-- decide
local scopes, held, reserved_at, epoch, seq = {}, 0, head[4], 0, 0
if state == PENDING then
  local h = { sunpack(HOLD, earlier) }
  if bit.band(h[H_MASK], bit.bnot(mask)) ~= 0 then
    local at = offset_of_ids(h)
    return { 'wrong_scopes', string.sub(earlier, at, at + h[H_IDS] - 1) }
  end
  if h[H_LIMITS] > 0 then
    scopes = read_scopes(a, values, 4, mask)
    count_out(scopes, h, earlier, 0, 0, 0)
  end
  if h[H_TIERED] > 0 then
    local at = offset_of_marks(h)
    -- uses: read_marks, leave_periods
    leave_periods(a, h, earlier, read_marks(earlier, at, h[H_TIERED]))
  end
  held, reserved_at = h[H_HELD], h[H_RESERVED_AT]
  spend_hold(a, h, earlier, 0, now)
elseif state then
  local e = { sunpack(ENDED, earlier) }
  local _, _, balance = credit(a, 0, now)
  -- uses: OUTCOMES
  return { OUTCOMES[state], e[E_CHARGED], balance, e[E_EPOCH], e[E_SEQ], 1 }
elseif reserved_at > 0 and now - reserved_at > SETTLE_MAX_AGE_MS then
  return { 'too_old', now }
end
local _, _, balance = credit(a, 0, now)
local told_after = {}
if now >= a[SWEEP_AT] then
  -- uses: catch_up
  catch_up(a, now, told_after)
end
local signals = state and notice(a, balance, now, 0) -- time may have moved it

-- write
if state then
  -- uses: tell
  tell(KEYS[2], shard, KEYS[4], now, told)
  emit(KEYS[2], shard, 'release', id .. ':released', now, 0, held, false, balance, {}, {}, ARGV[3],
    signals)
  epoch, seq = shard[EPOCH], shard[LAST_SEQ]
  tell(KEYS[2], shard, KEYS[4], now, told_after)
  store({ KEYS[3], pack_shard(shard), KEYS[4], pack_account(a) }, scopes, 6, mask)
  call('ZREM', KEYS[1], id)
end
local first = ARGV[4] and values[#KEYS - 2]
if first and string.sub(first, IDEMPOTENCY_DIGEST + 1) == id then call('DEL', KEYS[#KEYS]) end
call('SET', KEYS[5], spack(ENDED, RELEASED, 0, 0, 0, 0, 0, 0, held, reserved_at, now, epoch, seq),
  'PX', TOMBSTONE_TTL_MS)
return { 'released', 0, balance, epoch, seq, 0 }
