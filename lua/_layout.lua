-- Generated from gateway/ledger/codec/layout.py by `python -m tests.ledger.write_layout`; do not edit.
-- Indices of the records' fields, sizes and positions in bytes, and where the sections of a record begin.

-- Shard.
local STATE, EPOCH, LAST_SEQ, ACKED_SEQ, ACKED_EPOCH = 2, 4, 5, 6, 7
local SHARD = '<BBHdddd'
local SHARD_SIZE = 36

-- Loss.
local SEEN_EPOCH, SEEN_COUNT, LOSS_EPOCH, LOSS_AT, AFTER_EPOCH, AFTER_SEQ = 2, 3, 4, 5, 6, 7
local LOST_EPOCH, LOST_SEQ = 8, 9
local LOSS = '<Bdddddddd'
local LOSS_SIZE = 65

-- Account, header.
local STATUS, N_GRANTS, N_COUNTERS, N_PERIODS, N_ALLOWANCES, BILLING_DAY = 2, 3, 4, 5, 6, 7
local N_SIGNALS, ACCOUNT_REV, CREDIT_LIMIT, OVERDRAFT, HELD, HELD_CREDIT = 8, 9, 10, 11, 12, 13
local OPEN, GRANTED, SETTLED, EXPIRED_CREDIT, VOIDED, ADJUSTED = 14, 15, 16, 17, 18, 19
local NEXT_GRANT_NO, SWEEP_AT, GROWTH_WANTED = 20, 21, 22
local ACCOUNT = '<BBBBBBBBdddddddddddddd'
local ACCOUNT_SIZE = 120

-- Grant, in burn order.
local CATEGORY, PRIORITY, BITS, NO, REMAINING, GRANT_HELD = 0, 1, 3, 4, 5, 6
local EFFECTIVE_AT, EXPIRES_AT, CREATED_AT = 7, 8, 9
local GRANT = 'BBHIdddddd'
local GRANT_SIZE = 56

-- Period, what tiers and included units count.
local P_START, P_END, P_USED, P_HELD, P_BEFORE, P_USED_BEFORE = 1, 2, 3, 4, 5, 6
local PERIOD = 'Idddddd'
local PERIOD_SIZE = 52

-- Allowance.
local A_KIND, A_CATEGORY, A_PRIORITY, A_DAY, A_BITS, A_AMOUNT = 1, 2, 3, 4, 5, 6
local A_ROLLOVER, A_START, A_END, A_GRANT, A_CARRY = 7, 8, 9, 10, 11
local ALLOWANCE = 'IBBBBIdddddd'
local ALLOWANCE_SIZE = 60

-- Counter of a limit.
local WINDOW, USED, COUNTER_HELD = 1, 2, 3
local COUNTER = 'Iddd'
local COUNTER_SIZE = 28

-- Ring of a rolling counter.
local RING_SIZE = 220

-- Scope (project, key), header.
local SCOPE = '<BBBB'
local SCOPE_SIZE = 4

-- Reservation, pending, header.
local H_TIERED, H_ALLOCATIONS, H_LIMITS, H_UNITS, H_MASK, H_ROWS = 2, 3, 4, 5, 6, 7
local H_COSTS, H_IDS, H_BITS, H_HELD, H_RESERVED_AT, H_DEADLINE = 8, 9, 10, 11, 12, 13
local H_EXTEND_NO, H_TOKENS = 14, 15
local HOLD = '<BBBBBBHHHIddddd'
local HOLD_SIZE = 56

-- Tombstone, header.
local E_TIERED, E_ALLOCATIONS, E_LIMITS, E_UNITS, E_MASK, E_CHARGED = 2, 3, 4, 5, 6, 7
local E_HELD, E_RESERVED_AT, E_ENDED_AT, E_EPOCH, E_SEQ = 8, 9, 10, 11, 12
local ENDED = '<BBBBBBdddddd'
local ENDED_SIZE = 54

-- Allocation.
local ALLOCATION = '<dd'
local ALLOCATION_SIZE = 16

-- Limit of a hold.
local HELD_LIMIT = '<BBIddd'
local HELD_LIMIT_SIZE = 30

-- Mark of a tiered row.
local MARK = '<dd'
local MARK_SIZE = 16

-- What an expiry credited.
local CREDITED = '<d'
local CREDITED_SIZE = 8

-- First bytes of fields of an account record, and of its first grant.
local POSITION_OF_OVERDRAFT = 25
local POSITION_OF_HELD = 33
local POSITION_OF_SWEEP_AT = 105
local POSITION_OF_GROWTH_WANTED = 113
local POSITION_OF_FIRST_REMAINING = 137
local POSITION_OF_FIRST_HELD = 145

local HEADER = 22 -- fields of an account before its grants

local function first_period(a)
  return HEADER + 1 + 10 * a[N_GRANTS]
end

local function first_allowance(a)
  return HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS]
end

local function first_signal(a)
  return HEADER + 1 + 10 * a[N_GRANTS] + 7 * a[N_PERIODS] + 12 * a[N_ALLOWANCES]
end

local function offset_of_allocations(h)
  return 57
end

local function offset_of_limits(h)
  return 57 + 16 * h[H_ALLOCATIONS]
end

local function offset_of_marks(h)
  return 57 + 16 * h[H_ALLOCATIONS] + 30 * h[H_LIMITS]
end

local function offset_of_estimate(h)
  return 57 + 16 * h[H_ALLOCATIONS] + 30 * h[H_LIMITS] + 16 * h[H_TIERED]
end

local function offset_of_checkpoint(h)
  return 57 + 16 * h[H_ALLOCATIONS] + 30 * h[H_LIMITS] + 16 * h[H_TIERED] + 8 * h[H_UNITS]
end

local function offset_of_rows(h)
  return 57 + 16 * h[H_ALLOCATIONS] + 30 * h[H_LIMITS] + 16 * h[H_TIERED] + 8 * h[H_UNITS] + 8 * h[H_UNITS]
end

local function offset_of_costs(h)
  return 57 + 16 * h[H_ALLOCATIONS] + 30 * h[H_LIMITS] + 16 * h[H_TIERED] + 8 * h[H_UNITS] + 8 * h[H_UNITS] + h[H_ROWS]
end

local function offset_of_ids(h)
  return 57 + 16 * h[H_ALLOCATIONS] + 30 * h[H_LIMITS] + 16 * h[H_TIERED] + 8 * h[H_UNITS] + 8 * h[H_UNITS] + h[H_ROWS] + h[H_COSTS]
end

local function offset_of_facts(h)
  return 57 + 16 * h[H_ALLOCATIONS] + 30 * h[H_LIMITS] + 16 * h[H_TIERED] + 8 * h[H_UNITS] + 8 * h[H_UNITS] + h[H_ROWS] + h[H_COSTS] + h[H_IDS]
end

local function ended_offset_of_allocations(e)
  return 55
end

local function ended_offset_of_limits(e)
  return 55 + 16 * e[E_ALLOCATIONS]
end

local function ended_offset_of_marks(e)
  return 55 + 16 * e[E_ALLOCATIONS] + 30 * e[E_LIMITS]
end

local function ended_offset_of_usage(e)
  return 55 + 16 * e[E_ALLOCATIONS] + 30 * e[E_LIMITS] + 16 * e[E_TIERED] + (e[E_TIERED] > 0 and 8 or 0)
end
