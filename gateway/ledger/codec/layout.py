"""The layout of every packed record, described once.

From this description come the structs of this package, the constants and accessors that the scripts
use (`lua/_layout.lua`), the tables in `lua/README.md`, and what the tests unpack. The records of a
running ledger are read with it: a layout never changes, a new one gets a new number and a migration.
`python -m tests.ledger.write_layout` regenerates the two files; a test says when they are out of date.

All numbers are little-endian. Codes as `struct` and Lua's `struct` share them: B 1 byte, H 2, I 4,
d a double that holds an integer.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

LAYOUT: Final = 1


@dataclass(frozen=True, slots=True)
class Field:
    """One number of a record. lua: the constant that names its index there; "" where none needs it."""

    name: str
    code: str
    lua: str = ""
    meaning: str = ""


def _fields(*rows: str) -> tuple[Field, ...]:
    """Fields from `code name LUA_NAME: meaning`."""
    made = []
    for row in rows:
        head, _, meaning = row.partition(": ")
        code, name, *lua = head.split()
        made.append(Field(name, code, lua[0] if lua else "", meaning))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Layout:
    """A record, its header, or one row of a section. base: the Lua index of its first field."""

    name: str
    title: str
    fields: tuple[Field, ...]
    base: int = 1
    packed: struct.Struct = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "packed", struct.Struct("<" + self.codes))

    @property
    def codes(self) -> str:
        """The format without its byte order, so that it can be repeated."""
        return "".join(each.code for each in self.fields)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.packed.size

    def position(self, name: str) -> int:
        """The first byte of a field, counted from 1 as Lua does."""
        before = [each.code for each in self.fields]
        index = [each.name for each in self.fields].index(name)
        return 1 + struct.calcsize("<" + "".join(before[:index]))


SHARD: Final = Layout(
    "SHARD",
    "Shard",
    _fields(
        "B layout: 1",
        "B state STATE: 0 open, 1 frozen (see *A shard that lost entries*)",
        "H reserved: 0",
        "d epoch EPOCH: from 1",
        "d last_seq LAST_SEQ: −1 when none in this epoch",
        "d acked_seq ACKED_SEQ: trimmed up to here; −1 when nothing was",
        "d acked_epoch ACKED_EPOCH",
    ),
)
LOSS: Final = Layout(
    "LOSS",
    "Loss",
    _fields(
        "B layout: 1",
        "d seen_epoch SEEN_EPOCH: of the last entry that whoever froze the shard knew of; 0 while it is open",
        "d seen_count SEEN_COUNT: one more than that entry's seq",
        "d epoch LOSS_EPOCH: that began when entries were last found lost; 0 when none ever were",
        "d at LOSS_AT: when that was, Unix ms",
        "d after_epoch AFTER_EPOCH: of the last entry before those that are lost",
        "d after_seq AFTER_SEQ",
        "d last_epoch LOST_EPOCH: of the last one that is lost",
        "d last_seq LOST_SEQ",
    ),
)
ACCOUNT: Final = Layout(
    "ACCOUNT",
    "Account, header",
    _fields(
        "B layout: 1",
        "B status STATUS: 0 active, 1 frozen, 2 killed (frozen, and running responses are cut)",
        "B n_grants N_GRANTS: ≤ 64",
        "B n_counters N_COUNTERS",
        "B n_periods N_PERIODS",
        "B n_allowances N_ALLOWANCES",
        "B billing_day BILLING_DAY: 1 … 31",
        "B n_signals N_SIGNALS: length of the signals section in 8 bytes",
        "d account_rev ACCOUNT_REV",
        "d credit_limit CREDIT_LIMIT",
        "d overdraft OVERDRAFT",
        "d held HELD: sum of the open reservations",
        "d held_credit HELD_CREDIT: the part of held that rests on the credit limit",
        "d open OPEN: number of open reservations",
        "d granted GRANTED",
        "d settled SETTLED",
        "d expired EXPIRED_CREDIT",
        "d voided VOIDED",
        "d adjusted ADJUSTED: signed",
        "d next_grant_no NEXT_GRANT_NO",
        "d sweep_at SWEEP_AT: when time alone changes this record (see *Time*)",
        "d growth_wanted GROWTH_WANTED: until then new requests stand back (see *Growth*)",
    ),
)
GRANT: Final = Layout(
    "GRANT",
    "Grant, in burn order",
    _fields(
        "B category CATEGORY: 1 paid, 2 promotional, 3 allowance, 4 adjustment",
        "B priority PRIORITY",
        "H reserved: 0",
        "I scope_bits BITS: 0 every model; else the bits of the model groups that it pays for",
        "d no NO",
        "d remaining REMAINING",
        "d held GRANT_HELD",
        "d effective_at EFFECTIVE_AT: 0 since it was made, for clocks are set back",
        "d expires_at EXPIRES_AT: 0 never",
        "d created_at CREATED_AT",
    ),
    base=0,
)
PERIOD: Final = Layout(
    "PERIOD",
    "Period, what tiers and included units count",
    _fields(
        "I counter_id",
        "d start P_START",
        "d end P_END",
        "d used P_USED",
        "d held P_HELD",
        "d before_start P_BEFORE: start of the period before",
        "d before_used P_USED_BEFORE",
    ),
    base=0,
)
ALLOWANCE: Final = Layout(
    "ALLOWANCE",
    "Allowance",
    _fields(
        "I allowance_id: CRC-32 of its name",
        "B kind A_KIND: of period",
        "B category A_CATEGORY",
        "B priority A_PRIORITY",
        "B day A_DAY: of the month; 0 the billing day",
        "I scope_bits A_BITS",
        "d amount A_AMOUNT",
        "d rollover_max A_ROLLOVER",
        "d start A_START",
        "d end A_END: 0 when none was opened yet",
        "d grant_no A_GRANT: of the period's grant",
        "d carry A_CARRY: what of that grant has expired unused",
    ),
    base=0,
)
COUNTER: Final = Layout(
    "COUNTER",
    "Counter of a limit",
    _fields(
        "I counter_id",
        "d window_start WINDOW",
        "d used USED",
        "d held COUNTER_HELD",
    ),
    base=0,
)
SLOTS: Final = 12
RING: Final = Layout(
    "RING",
    "Ring of a rolling counter",
    _fields(
        "I counter_id",
        "d slot_ms: length of a slot",
        "d used: of the twelve slots in all",
        "d held",
        *(f"d slot_{number}_{what}" for number in range(1, SLOTS + 1) for what in ("used", "held")),
    ),
)
SCOPE: Final = Layout(
    "SCOPE",
    "Scope (project, key), header",
    _fields("B layout: 1", "B status", "B n_counters", "B reserved: 0"),
)
HOLD: Final = Layout(
    "HOLD",
    "Reservation, pending, header",
    _fields(
        "B state: 1",
        "B n_tiered H_TIERED: tiered price rows",
        "B n_allocations H_ALLOCATIONS",
        "B n_limits H_LIMITS",
        "B n_units H_UNITS",
        "B mask H_MASK: scopes that its limits count in: 1 project, 2 key",
        "H rows_size H_ROWS: bytes of price rows",
        "H costs_size H_COSTS: bytes of cost rows",
        "H ids_size H_IDS: bytes of ids",
        "I scope_bits H_BITS",
        "d held H_HELD",
        "d reserved_at H_RESERVED_AT",
        "d deadline H_DEADLINE",
        "d extend_no H_EXTEND_NO",
        "d tokens H_TOKENS",
    ),
)
ENDED: Final = Layout(
    "ENDED",
    "Tombstone, header",
    _fields(
        "B state: 2 settled, 3 released, 4 expired, 5 settled_late",
        "B n_tiered E_TIERED",
        "B n_allocations E_ALLOCATIONS",
        "B n_limits E_LIMITS",
        "B n_units E_UNITS",
        "B mask E_MASK",
        "d charged E_CHARGED",
        "d held E_HELD",
        "d reserved_at E_RESERVED_AT",
        "d ended_at E_ENDED_AT",
        "d epoch E_EPOCH: 0 when it had no event",
        "d seq E_SEQ",
    ),
)
ALLOCATION: Final = Layout(
    "ALLOCATION", "Allocation", _fields("d grant_no: 0 the credit limit", "d amount")
)
HELD_LIMIT: Final = Layout(
    "HELD_LIMIT",
    "Limit of a hold",
    _fields(
        "B scope: 0 customer, 1 project, 2 key",
        "B measure: 1 spend, 2 requests, 3 tokens, 4 concurrent",
        "I counter_id",
        "d window_start",
        "d ceiling",
        "d held: in a tombstone what was counted",
    ),
)
MARK: Final = Layout(
    "MARK",
    "Mark of a tiered row",
    _fields("d start: of the period of the reserve", "d position: where the counter stood"),
)
CREDITED: Final = Layout("CREDITED", "What an expiry credited", _fields("d credited"))
UNIT: Final = Layout("UNIT", "One quantity of a vector", _fields("d quantity"))

ALL: Final = (
    SHARD, LOSS, ACCOUNT, GRANT, PERIOD, ALLOWANCE, COUNTER, RING, SCOPE, HOLD, ENDED, ALLOCATION,
    HELD_LIMIT, MARK, CREDITED,
)  # fmt: skip
