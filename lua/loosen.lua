#!lua flags=allow-oom
-- loosen: takes a hold off the grants that it rests on and puts it on the credit limit, in a frozen
-- shard. What the store's events say was taken from these grants can then be taken again; the hold's
-- end takes what is left, and the rest is overdraft.
--
-- KEYS[1] shard
-- KEYS[2] account
-- KEYS[3] reservation
--
-- replies, the first that applies:
--   not_frozen
--   wrong_layout
--   unknown_account
--   gone: no hold that is pending
--   loosened  held_nano
--
-- writes: account, reservation.

-- uses: read_account, pack_account

-- read
local raw_shard, raw, hold = call('GET', KEYS[1]), call('GET', KEYS[2]), call('GET', KEYS[3])
if not raw_shard then return { 'not_frozen' } end
local shard = { sunpack(SHARD, raw_shard) }

-- decide
if shard[1] ~= 1 then return { 'wrong_layout' } end
if shard[STATE] == 0 then return { 'not_frozen' } end
if not raw then return { 'unknown_account' } end
if not hold or byte(hold, 1) ~= PENDING then return { 'gone' } end
local a, h = read_account(raw), { sunpack(HOLD, hold) }
local rest = string.sub(hold, offset_of_limits(h))
local held = h[H_HELD]
-- uses: leave_grants
leave_grants(a, h, hold)
local allocations = ''
if held > 0 then allocations = spack(ALLOCATION, 0, held) end
a[HELD_CREDIT] = a[HELD_CREDIT] + held
h[H_ALLOCATIONS] = #allocations / ALLOCATION_SIZE

-- write
call('MSET', KEYS[2], pack_account(a), KEYS[3], spack(HOLD, unpack(h, 1, H_TOKENS)) .. allocations .. rest)
return { 'loosened', held }
