-- Replaces a hold by the charge, gives the rest back, and writes the event.
-- KEYS wallet, hold, outbox · ARGV charge in nano-credits, customer, model, input, output, request id
local held = redis.call('GET', KEYS[2])
if not held then return { 'gone' } end
redis.call('DEL', KEYS[2])
redis.call('HINCRBY', KEYS[1], 'held', -held)
redis.call('HINCRBY', KEYS[1], 'balance', held - ARGV[1])
redis.call('XADD', KEYS[3], '*', 'customer', ARGV[2], 'model', ARGV[3], 'input', ARGV[4], 'output', ARGV[5],
  'amount', ARGV[1], 'request', ARGV[6])
return { 'settled' }
