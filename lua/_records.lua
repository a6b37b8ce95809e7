-- What all scripts share: names of the records' fields, bounds and checks, and how a record is read
-- and written.
--
-- The linker (gateway/ledger/client/scripts.py) joins the files `_*.lua` and includes in each script the
-- functions that its lines `-- uses:` name, with the values of the constants in place of their names: so
-- blank lines stand between blocks and nowhere else, and a constant is `local NAME, … = number, string or
-- function of Lua's, …`. What is rarely used is named in the branch that uses it: it costs nothing elsewhere.
--
-- Rules of these files: a record is one flat array: one unpack reads it, one pack writes it (layouts
-- in README.md; indices, formats and positions in `_layout.lua`, which is generated). Nothing but `emit` and `store` writes. What grows gets its room when it is made
-- (`nil, …`): to grow costs a table more than what is put in. Functions that refuse return nil and a word;
-- the line `answers:` lists the words, and a test reads it. Bounds are those of
-- gateway/domain/money.py and reservation.py (a test compares them).

local call, sunpack, spack = redis.call, struct.unpack, struct.pack
local byte, rep, sub, floor, format = string.byte, string.rep, string.sub, math.floor, string.format

local MAX_AMOUNT = 9000000000000000
local MAX_QUANTITY = 1000000000000
local MAX_RATE = 1000000000000 -- whole nano-credits a unit
local MAX_GRANTS = 64
local MAX_THRESHOLDS = 8 -- of a low balance
local MAX_ALLOWANCES = 16
local MAX_USES = 100 -- of one call of `rate`
local MAX_ID = 200
local MAX_COUNTERS = 200 -- of one record
local ENDLESS = 4503599627370496 -- where the only window of `total` ends
local TOMBSTONE_TTL_MS = 3600000
local SETTLE_MAX_AGE_MS = 3300000
local GROWTH_MARK_MS = 500 -- how long new requests stand back for an answer that wants to grow
local IDEMPOTENCY_TTL_MS = 86400000
local IDEMPOTENCY_DIGEST = 16 -- bytes of a body's digest

local FROZEN, KILLED = 1, 2 -- statuses of an account; 0 is active
-- An account's signals: first comes the balance below which something is crossed.
local S_TO, S_AT, S_MARK, S_HOUR_END, S_PACKED = 1, 2, 3, 4, 5

-- Measures of a limit.
local SPEND, REQUESTS, TOKENS, CONCURRENT = 1, 2, 3, 4

-- States of a reservation record.
local PENDING, SETTLED_STATE, RELEASED, EXPIRED, SETTLED_LATE = 1, 2, 3, 4, 5
local OUTCOMES = { 'pending', 'settled', 'released', 'expired', 'settled_late' }

-- Whether all are whole numbers within 0 … MAX_AMOUNT. NaN fails every comparison.
local function whole(numbers)
  for i = 1, #numbers do
    local x = numbers[i]
    if not (x >= 0 and x <= MAX_AMOUNT and x % 1 == 0) then return false end
  end
  return true
end

-- Unix ms by the ledger's clock, asked once per script; tests supply it.
local function clock(supplied)
  if supplied > 0 then return supplied end
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- The values of KEYS[first] and after; false where there is none. MGET calls a key of another
-- type absent, so that one is asked again, and fails before anything was written.
local function read(first)
  local values = call('MGET', unpack(KEYS, first))
  for i = 1, #values do
    if not values[i] then call('GET', KEYS[first + i - 1]) end
  end
  return values
end

-- The shard record, unless the shard cannot serve. `seen` is one more than the highest seq that
-- the caller knows of in `epoch`.
-- answers: unknown_account, went_back, wrong_layout, shard_frozen
local function open_shard(raw, epoch, seen)
  if not raw then return nil, seen > 0 and 'went_back' or 'unknown_account' end
  local shard = { sunpack(SHARD, raw) }
  if shard[1] ~= 1 then return nil, 'wrong_layout' end
  if shard[EPOCH] < epoch or (shard[EPOCH] == epoch and shard[LAST_SEQ] + 1 < seen) then
    return nil, 'went_back'
  end
  if shard[STATE] ~= 0 then return nil, 'shard_frozen' end
  return shard
end

local function account_format(n_grants, n_counters, n_periods, n_allowances, n_signals)
  local middle = ''
  if n_periods + n_allowances > 0 then
    middle = rep(PERIOD, n_periods) .. rep(ALLOWANCE, n_allowances)
  end
  if n_signals > 0 then middle = middle .. 'dddddc' .. 8 * (n_signals - 5) end
  return ACCOUNT .. rep(GRANT, n_grants) .. middle .. rep(COUNTER, n_counters)
end

local function read_account(raw)
  local _, _, n_grants, n_counters, n_periods, n_allowances, _, n_signals = byte(raw, 1, 8)
  local a = { rings = nil, sunpack(account_format(n_grants, n_counters, n_periods, n_allowances, n_signals), raw) }
  local rings = a[#a] -- unpack's last value is the position after it
  a[#a] = nil
  if rings <= #raw then a.rings = sub(raw, rings) end
  return a
end

-- The record of a customer of whom nothing is known yet.
local function new_account()
  local a = {}
  for i = 1, HEADER do a[i] = 0 end
  a[1], a[NEXT_GRANT_NO], a[SWEEP_AT] = 1, 1, MAX_AMOUNT
  return a
end

local function pack_account(a)
  return spack(
    account_format(a[N_GRANTS], a[N_COUNTERS], a[N_PERIODS], a[N_ALLOWANCES], a[N_SIGNALS]), unpack(a))
    .. (a.rings or '')
end

local function read_scope(raw)
  if not raw then return { 1, 0, 0, 0 } end
  local s = { rings = nil, sunpack(SCOPE .. rep(COUNTER, byte(raw, 3)), raw) }
  local rings = s[#s]
  s[#s] = nil
  if rings <= #raw then s.rings = sub(raw, rings) end
  return s
end

local function pack_scope(s)
  return spack(SCOPE .. rep(COUNTER, s[3]), unpack(s)) .. (s.rings or '')
end

-- The records that limits count in, by scope: 0 the account, 1 project, 2 key. `mask` says which
-- of them `values` holds from `at` on: 1 project, 2 key. `create`: make the missing ones.
local function read_scopes(a, values, at, mask, create)
  local scopes = { nil, nil, [0] = a }
  for scope = 1, 2 do
    if mask == scope or mask == 3 then
      if values[at] or create then scopes[scope] = read_scope(values[at]) end
      at = at + 1
    end
  end
  return scopes
end

-- Whether an argument of that size comes with a key behind the scopes' of the mask: the record of an
-- Idempotency-Key. A script that took another for it would overwrite it.
local function names_last(once, size, mask)
  return #once == size and #KEYS == 6 + (mask > 0 and 1 or 0) + (mask == 3 and 1 or 0)
end

-- Index of a counter in its record, or nil.
local function find_counter(record, scope, id)
  local first, count = 5, record[3]
  if scope == 0 then
    first = first_signal(record)
    if record[N_SIGNALS] > 0 then first = first + 6 end
    count = record[N_COUNTERS]
  end
  for c = first, first + 4 * (count - 1), 4 do
    if record[c] == id then return c end
  end
end

-- MSET of the given pairs and of the scope records, whose keys are in KEYS from `at` on.
local function store(pairs, scopes, at, mask)
  for scope = 1, 2 do
    if mask == scope or mask == 3 then
      if scopes[scope] then
        pairs[#pairs + 1] = KEYS[at]
        pairs[#pairs + 1] = pack_scope(scopes[scope])
      end
      at = at + 1
    end
  end
  call('MSET', unpack(pairs))
end

-- Puts fields into a flat record.
local function insert(a, at, fields)
  local n = #fields
  for i = #a, at, -1 do a[i + n] = a[i] end
  for i = 1, n do a[at + i - 1] = fields[i] end
end

-- Adds to a list of no, amount, …; one entry per grant.
local function note(list, no, amount)
  for i = 1, #list, 2 do
    if list[i] == no then
      list[i + 1] = list[i + 1] + amount
      return
    end
  end
  list[#list + 1] = no
  list[#list + 1] = amount
end

local function pack_shard(shard)
  return spack(SHARD, unpack(shard))
end
