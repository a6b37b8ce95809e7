#!lua flags=allow-oom
-- shut: freezes a wallet of a frozen shard, because an event of the store cannot be done again in it, or because it
-- differs from its events. It is listed until it is thawed. The event is passed over; the wallet is made if there
-- is none, so that nothing makes it new and open. No entry is written, for a frozen shard takes none.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] customers
-- KEYS[4] shut
-- ARGV[1] place  <dd: epoch and seq of the event that is passed over
-- ARGV[2] customer_id
-- ARGV[3] note  why: msgpack, kept as it is
--
-- replies, the first that applies:
--   bad_arguments
--   not_frozen
--   wrong_layout
--   shut  account_rev
--
-- writes: shard, account, customers, shut.

-- uses: read_account, new_account, pack_account

-- read
local place, customer = { sunpack('<dd', ARGV[1]) }, ARGV[2]
if not (place[1] >= 1 and place[2] >= -1) or #customer == 0 or #customer > MAX_ID then return { 'bad_arguments' } end
local raw_shard, raw = call('GET', KEYS[1]), call('GET', KEYS[2])
call('SCARD', KEYS[3]) -- their types
call('HLEN', KEYS[4])
if not raw_shard then return { 'not_frozen' } end
local shard = { sunpack(SHARD, raw_shard) }

-- decide
if shard[1] ~= 1 then return { 'wrong_layout' } end
if shard[STATE] == 0 then return { 'not_frozen' } end
if shard[ACKED_EPOCH] < place[1] or (shard[ACKED_EPOCH] == place[1] and shard[ACKED_SEQ] < place[2]) then
  shard[ACKED_EPOCH], shard[ACKED_SEQ] = place[1], place[2]
end
local a
if raw then
  a = read_account(raw)
else
  a = new_account()
  a[BILLING_DAY] = 1
end
if a[STATUS] == 0 then a[STATUS], a[ACCOUNT_REV] = FROZEN, a[ACCOUNT_REV] + 1 end

-- write
call('MSET', KEYS[1], pack_shard(shard), KEYS[2], pack_account(a))
call('SADD', KEYS[3], customer)
call('HSET', KEYS[4], customer, ARGV[3])
return { 'shut', a[ACCOUNT_REV] }
