#!lua flags=no-writes
-- rate: what past uses of one customer come to at a price, rated as reserve and settle rate, with
-- period counters of its own: they begin blank, are handed out, and taken in by the next call. Reads
-- nothing, so no wallet is touched. At most 100 uses a call.
--
-- ARGV[1] head  <BB: billing day, n units
-- ARGV[2] price rows
-- ARGV[3] cost rows  or empty
-- ARGV[4] periods  <Idddddd each, as the call before handed them out; empty at first
-- ARGV[5] uses  <d: reserved_at_ms; vector: each, in the order of their reserves
--
-- replies, the first that applies:
--   bad_arguments
--   bad_rate, bad_quantity, unknown_shape, too_large
--   rated  periods; then of each use charge_nano (below 0: charged nothing, and so much credited), cost_nano (0 without cost rows)
--
-- writes: nothing.

-- uses: whole, insert, rate

-- read
local head, rows, costs, uses = { sunpack('<BB', ARGV[1]) }, ARGV[2], ARGV[3], ARGV[5]
local day, n, n_periods, size = head[1], head[2], #ARGV[4] / 52, 8 + 8 * head[2]
if day < 1 or day > 31 or floor(n_periods) ~= n_periods or #uses % size ~= 0 or #uses > MAX_USES * size
  or not (#costs == 0 or #costs == 18 * n) then
  return { 'bad_arguments' }
end
local a = {}
for i = 1, HEADER do a[i] = 0 end
a[N_PERIODS], a[BILLING_DAY] = n_periods, day
insert(a, HEADER + 1, { sunpack('<' .. rep('Idddddd', n_periods), ARGV[4]) })
a[#a] = nil -- unpack's last value is the position after it

-- decide
local charges = {}
for at = 1, #uses, size do
  local reserved_at = sunpack('<d', uses, at)
  if not whole({ reserved_at }) then return { 'bad_arguments' } end
  local meter = #rows ~= 18 * n and { a = a, mode = 'charge', opens = true, now = reserved_at }
  local charge, wrong = rate(rows, 1, #rows, uses, at + 8, n, nil, meter)
  if not charge then return { wrong } end
  if meter then
    -- uses: count_periods
    count_periods(a, meter)
  end
  local cost, wrong_cost = 0, nil
  if #costs > 0 then cost, wrong_cost = rate(costs, 1, #costs, uses, at + 8, n) end
  if not cost then return { wrong_cost } end
  charges[#charges + 1] = charge
  charges[#charges + 1] = cost
end
local periods = spack('<' .. rep('Idddddd', a[N_PERIODS]), unpack(a, HEADER + 1))
return { 'rated', periods, unpack(charges) }
