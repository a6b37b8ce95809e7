#!lua flags=allow-oom
-- account: creates an account, or changes its terms when the revision given is higher. The shard's
-- record is made with its first account. `bump` only raises the revision, so that every gate reads
-- the account again (a key was revoked).
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] customers
-- KEYS[4] out
-- ARGV[1] head  <dddddBBB: now_ms (0: the ledger's clock), seen_epoch, seen_count, account_rev, credit_limit_nano,
--               status (0 active, 1 frozen, 2 killed: frozen, and its running answers are cut), billing day (1 … 31),
--               bump (0 or 1: then revision, limit, status and day given count for nothing)
-- ARGV[2] customer_id
-- ARGV[3] facts
--
-- replies, the first that applies:
--   bad_arguments
--   went_back, wrong_layout, shard_frozen: the shard
--   unknown_account: a bump of none
--   old_revision  account_rev: of the ledger, higher than the one given
--   unchanged  account_rev: an earlier call did it
--   exists_with_different_parameters  account_rev
--   updated  account_rev, balance_nano, epoch, seq
--
-- writes: out, shard, account, customers.

-- uses: whole, clock, open_shard, read_account, new_account, pack_account, credit, notice, emit

-- read
local head = { sunpack('<dddddBBB', ARGV[1]) }
local customer, rev, limit, status, day, bump = ARGV[2], head[4], head[5], head[6], head[7], head[8] == 1
if not whole(head) or #customer == 0 or #customer > MAX_ID or status > KILLED or head[8] > 1
  or not bump and (day < 1 or day > 31) then
  return { 'bad_arguments' }
end
local raw_shard, raw = call('GET', KEYS[1]), call('GET', KEYS[2])
call('SCARD', KEYS[3]) -- its type
local shard, closed = open_shard(raw_shard, head[2], head[3])
if not shard then
  if closed ~= 'unknown_account' then return { closed } end
  shard = { 1, 0, 0, 1, -1, -1, 0 }
end
local now = clock(head[1])

-- decide
local a
local told = {}
if raw then
  a = read_account(raw)
  if now >= a[SWEEP_AT] then
    -- uses: catch_up
    catch_up(a, now, told)
  end
  local current = a[ACCOUNT_REV]
  if bump then
    rev, limit, status, day = current + 1, a[CREDIT_LIMIT], a[STATUS], a[BILLING_DAY]
  elseif rev < current then
    return { 'old_revision', current }
  elseif rev == current then
    local same = limit == a[CREDIT_LIMIT] and status == a[STATUS] and day == a[BILLING_DAY]
    return { same and 'unchanged' or 'exists_with_different_parameters', current }
  end
elseif bump then
  return { 'unknown_account' }
else
  a = new_account()
end
a[ACCOUNT_REV], a[CREDIT_LIMIT], a[STATUS], a[BILLING_DAY] = rev, limit, status, day
local _, _, balance = credit(a, 0, now)
local signals = notice(a, balance, now, 0, true) -- the end of the credit limit has moved

-- write
-- uses: tell
tell(KEYS[4], shard, KEYS[2], now, told)
emit(KEYS[4], shard, 'account', format('account:%s:%.0f', customer, rev), now, 0, 0, false, balance, {}, {},
  ARGV[3], signals)
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
call('SADD', KEYS[3], customer)
return { 'updated', rev, balance, shard[EPOCH], shard[LAST_SEQ] }
