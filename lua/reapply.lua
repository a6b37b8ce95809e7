#!lua flags=allow-oom
-- reapply: does again, in a frozen shard, what an event of the store says that this shard had done and
-- has lost. Events come in the order of their places, each once: the shard's record says how far it is,
-- in `acked`. No entry is written, for the store has it.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] ops
-- KEYS[4] customers
-- KEYS[5] due
-- KEYS[6] reservation  of an event that ends one; of a note its tombstone
-- KEYS[7] project  if the mask has 1; else the key
-- KEYS[8] key  if the mask has 1 and 2
-- ARGV[1] head  <dddB: now_ms (0: the ledger's clock), epoch and seq of the event, mask of scopes given
-- ARGV[2] effect  msgpack map: customer, at (Unix ms), amount (signed), sum (the lifetime sum that it moves, or
--                 none), moved {no, nano, …} (grant 0 repays the overdraft; what was paid is below 0), terms {no →
--                 {category, priority, scope bits, effective_at, expires_at}} of grants that may have to be made,
--                 grant (1: it made the next grant), account {revision, credit limit, status, billing day} or
--                 {revision}, note (1: an entry of `note`, which has no account), voided and expired (no of a grant), allowance (the fields of its terms), opened
--                 {allowance id, start, end}, op {id, verb, parameters, result, facts}, refunds (an event's id),
--                 ended {state, charged, requests, tokens, reservation id, what was held}
--
-- replies, the first that applies:
--   bad_arguments
--   not_frozen
--   wrong_layout
--   applied  replayed (0 or 1): 1 comes before what follows
--   unknown_account: nor does the event make it
--   other_grant  no: the wallet has another grant of this number
--   unknown_grant  no: the wallet has no such grant, and its terms are not known
--   not_enough  no: less is left of this grant, or owed, than the event moved
--
-- writes: shard, account, ops, customers, due, reservation (tombstone), and the scope records of the hold.

-- uses: whole, clock, read, read_account, new_account, pack_account, read_scopes, store, insert
-- uses: find_grant, add_grant, drop_exhausted, count_out

-- read
local head = { sunpack('<dddB', ARGV[1]) }
if not whole(head) then return { 'bad_arguments' } end
local e = cmsgpack.unpack(ARGV[2])
local raw_shard, raw, values = call('GET', KEYS[1]), call('GET', KEYS[2]), {}
call('HLEN', KEYS[3])
call('SCARD', KEYS[4]) -- their types
call('ZCARD', KEYS[5])
if #KEYS > 5 then values = read(6) end
if not raw_shard then return { 'not_frozen' } end
local shard = { sunpack(SHARD, raw_shard) }
local now, epoch, seq, mask = clock(head[1]), head[2], head[3], head[4]

-- decide
if shard[1] ~= 1 then return { 'wrong_layout' } end
if shard[STATE] == 0 then return { 'not_frozen' } end
if epoch < shard[ACKED_EPOCH] or (epoch == shard[ACKED_EPOCH] and seq <= shard[ACKED_SEQ]) then
  return { 'applied', 1 }
end
shard[ACKED_EPOCH], shard[ACKED_SEQ] = epoch, seq
local changed = e.account or {}
if not raw and #changed < 4 and not e.note then return { 'unknown_account' } end
local a = raw and read_account(raw) or new_account()
if #changed > 0 then a[ACCOUNT_REV] = math.max(a[ACCOUNT_REV], changed[1]) end
if #changed == 4 then a[CREDIT_LIMIT], a[STATUS], a[BILLING_DAY] = changed[2], changed[3], changed[4] end
local first = first_allowance(a)
if e.allowance then
  local w = first
  while w < first + 12 * a[N_ALLOWANCES] and a[w] ~= e.allowance[1] do w = w + 12 end
  local known = w < first + 12 * a[N_ALLOWANCES]
  if e.allowance[7] == 0 then
    if known then
      for i = w, #a do a[i] = a[i + 12] end
      a[N_ALLOWANCES] = a[N_ALLOWANCES] - 1
    end
  elseif known then
    for i = 2, 8 do a[w + i - 1] = e.allowance[i] end
  elseif a[N_ALLOWANCES] < MAX_ALLOWANCES then
    local fields = { unpack(e.allowance, 1, 8) }
    for i = 9, 12 do fields[i] = 0 end
    insert(a, w, fields)
    a[N_ALLOWANCES] = a[N_ALLOWANCES] + 1
  end
end
local moved, no, made = e.moved, a[NEXT_GRANT_NO], e.terms or {}
if e.grant then
  drop_exhausted(a)
  for i = 1, #moved, 2 do
    if moved[i] > 0 then no = moved[i] end
  end
  if no < a[NEXT_GRANT_NO] then return { 'other_grant', no } end
  a[NEXT_GRANT_NO] = no + 1
end
if e.opened then
  first = first_allowance(a)
  for w = first, first + 12 * (a[N_ALLOWANCES] - 1), 12 do
    if a[w] == e.opened[1] then
      a[w + A_START], a[w + A_END], a[w + A_GRANT], a[w + A_CARRY] = e.opened[2], e.opened[3], no, 0
      made = { [no] = { a[w + A_CATEGORY], a[w + A_PRIORITY], a[w + A_BITS], 0, e.opened[3] } }
    end
  end
end
local hold, ended, scopes, kept = values[1], e.ended, {}, ''
local pending = hold and ended and byte(hold, 1) == PENDING
if pending then
  local h = { sunpack(HOLD, hold) }
  local marks_at = offset_of_marks(h)
  if h[H_TIERED] > 0 then
    -- uses: read_marks, leave_periods
    leave_periods(a, h, hold, read_marks(hold, marks_at, h[H_TIERED]))
  else
    kept = string.sub(hold, offset_of_checkpoint(h), offset_of_rows(h) - 1)
  end
  scopes = read_scopes(a, values, 2, mask)
  count_out(scopes, h, hold, ended[2], ended[3], ended[4])
  -- uses: leave_grants
  leave_grants(a, h, hold)
  a[HELD], a[OPEN] = a[HELD] - h[H_HELD], a[OPEN] - 1
end
for i = 1, #moved, 2 do
  local nth, nano = moved[i], moved[i + 1]
  local g = nth > 0 and find_grant(a, nth)
  if nth == 0 then
    a[OVERDRAFT] = a[OVERDRAFT] - nano
    if a[OVERDRAFT] < 0 then return { 'not_enough', nth } end
  elseif g then
    a[g + REMAINING] = a[g + REMAINING] + nano
    if a[g + REMAINING] < a[g + GRANT_HELD] then return { 'not_enough', nth } end
  else
    local terms, next_no = made[nth], a[NEXT_GRANT_NO]
    if not terms or nano < 0 then return { 'unknown_grant', nth } end
    drop_exhausted(a)
    if a[N_GRANTS] >= MAX_GRANTS then return { 'unknown_grant', nth } end
    a[NEXT_GRANT_NO] = nth
    add_grant(a, terms[1], terms[2], terms[3], nano, terms[4], terms[5], e.at)
    a[NEXT_GRANT_NO] = math.max(next_no, nth + 1)
  end
end
local sums = { granted = GRANTED, settled = SETTLED, expired = EXPIRED_CREDIT, voided = VOIDED, adjusted = ADJUSTED }
local sum = sums[e.sum]
if sum then a[sum] = a[sum] + e.amount end
if e.voided then
  local g = find_grant(a, e.voided)
  if g then a[g + EXPIRES_AT] = e.at end
end
if e.expired then
  first = first_allowance(a)
  for w = first, first + 12 * (a[N_ALLOWANCES] - 1), 12 do
    if a[w + A_GRANT] == e.expired then a[w + A_CARRY] = a[w + A_CARRY] + e.amount end
  end
end
a[SWEEP_AT] = 0 -- whoever meets this record next finds out what time has done
local tombstone
if ended then
  local charged, paid = ended[2], {}
  if hold and byte(hold, 1) == EXPIRED and ended[1] == SETTLED_LATE then
    charged = charged + ({ sunpack(ENDED, hold) })[E_CHARGED]
  end
  if ended[1] == EXPIRED then
    for i = 1, #moved, 2 do paid[i], paid[i + 1] = moved[i], 0 - moved[i + 1] end
  end
  tombstone = spack(ENDED, ended[1], 0, #paid / 2, 0, #kept / 8, 0, charged, ended[6], e.at, e.at, epoch, seq)
    .. spack('<' .. rep('d', #paid), unpack(paid)) .. kept
end
if e.note then tombstone = spack('<dd', epoch, seq) end
local done = e.op
if done then done = cmsgpack.pack({ done[2], done[3], done[2] == 'grant' and no or done[4], e.at, epoch, seq, done[5] }) end
local refunded = 0
if e.refunds then
  local before = call('HGET', KEYS[3], 'refunded:' .. e.refunds)
  refunded = e.amount + (before and cmsgpack.unpack(before)[3] or 0)
end

-- write
if e.note then
  call('SET', KEYS[1], pack_shard(shard))
  call('SET', KEYS[6], tombstone, 'PX', TOMBSTONE_TTL_MS)
  return { 'applied', 0 }
end
call('SADD', KEYS[4], e.customer)
if done then call('HSET', KEYS[3], e.op[1], done) end
if e.refunds then
  call('HSET', KEYS[3], 'refunded:' .. e.refunds, cmsgpack.pack({ 'refunded', '', refunded, '' }))
end
store({ KEYS[1], pack_shard(shard), KEYS[2], pack_account(a) }, scopes, 7, mask)
if tombstone then call('SET', KEYS[6], tombstone, 'PX', TOMBSTONE_TTL_MS) end
if pending then call('ZREM', KEYS[5], e.ended[5]) end
return { 'applied', 0 }
