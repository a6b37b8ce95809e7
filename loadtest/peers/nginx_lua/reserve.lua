-- Holds an estimate in a wallet: the least that a prepaid gate needs.
-- KEYS wallet, hold · ARGV estimate in nano-credits, deadline in seconds
local balance = tonumber(redis.call('HGET', KEYS[1], 'balance') or '0')
local estimate = tonumber(ARGV[1])
if balance < estimate then return { 'refused', balance } end
redis.call('HINCRBY', KEYS[1], 'balance', -estimate)
redis.call('HINCRBY', KEYS[1], 'held', estimate)
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return { 'held', balance - estimate }
