"""A provider's export against the events of a real store."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import pytest

from gateway.domain.stores import EventStore
from gateway.operations.errors import OperationError
from gateway.operations.provider_usage import fold, plain_model, read_provider_usage
from gateway.operations.reconcile import ReconcileRequest, reconcile, reconciled_sheet
from gateway.operations.sheets import sheet_document
from tests.support.stores import sqlite_access
from tests.unit.exporter.sinks.contract import make_event

from .sold import DAY_MS, FIRST, store_events

OPENAI_USAGE = (
    "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,"
    "model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens,"
    "input_text_tokens,output_text_tokens,input_cached_text_tokens,input_audio_tokens,"
    "input_cached_audio_tokens,output_audio_tokens,input_image_tokens,input_cached_image_tokens,"
    "output_image_tokens"
)
OPENAI_COSTS = (
    "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,"
    "quantity_unit,line_item,user_id,api_key_id,project_id,organization_id,project_name,"
    "organization_name,user_email,api_source"
)
ANTHROPIC_USAGE = (
    "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,"
    "usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,"
    "usage_input_tokens_cache_read,usage_output_tokens,web_search_count,inference_geo,speed"
)
ANTHROPIC_COST = (
    "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,"
    "list_price_usd,cost_type,inference_geo,speed,api_key_id,api_key_status"
)


def line_of(header: str, **values: object) -> str:
    """A line with these columns, empty otherwise."""
    names = header.split(",")
    assert values.keys() <= set(names)
    return ",".join(str(values.get(name, "")) for name in names)


def openai_usage(day: int, model: str, **values: object) -> str:
    return line_of(OPENAI_USAGE, start_time=(FIRST + day * DAY_MS) // 1000, model=model, **values)


@pytest.fixture
async def store(tmp_path: Path) -> Iterator[EventStore]:  # type: ignore[misc]
    """Two days: the provider's `gpt-4o`, and one model of another upstream."""
    facts: Mapping[str, object] = {
        "model": "gpt-4o",
        "response_model": "gpt-4o-2024-08-06",
        "upstream": "openai",
    }
    usage = {"input": 100, "cache_read": 40, "output": 30, "reasoning": 5, "audio_input": 7}
    events = [
        make_event(0, occurred_at_ms=FIRST, usage=usage, cost_nano=1_000_000_000, facts=facts),
        make_event(1, occurred_at_ms=FIRST + DAY_MS, usage=usage, cost_nano=None, facts=facts),
        make_event(
            2, kind="expire", event_id="r2:expired", occurred_at_ms=FIRST, usage={"output": 10},
            cost_nano=5, facts=facts,
        ),
        make_event(
            3, kind="settle_late", event_id="r2:settled_late", occurred_at_ms=FIRST + DAY_MS,
            usage={"output": 14}, cost_nano=2, facts=facts,
        ),
        make_event(4, occurred_at_ms=FIRST, facts={"model": "llama", "upstream": "own"}),
    ]  # fmt: skip
    path = tmp_path / "events.db"
    await store_events(path, events)
    with sqlite_access(path).open() as opened:
        yield opened


def test_openai_usage_is_compared_in_pools_that_exclude_each_other(store: EventStore) -> None:
    lines = [
        OPENAI_USAGE,
        openai_usage(0, "gpt-4o-2024-08-06", num_model_requests="2.0", input_tokens="147.0",
                     input_cached_tokens="40.0", output_tokens="45.0"),
        openai_usage(1, "gpt-4o-2024-08-06", num_model_requests=1, input_tokens=150,
                     input_cached_tokens=40, output_tokens=39),
        openai_usage(2, ""),
    ]  # fmt: skip
    made = reconcile(store, ReconcileRequest(read_provider_usage(lines), "openai"))
    assert made.differing == 1
    assert made.uncosted == 1
    assert sheet_document(reconciled_sheet(made)) == {
        "lines": [
            {
                "day": "2024-10-05", "model": "gpt-4o",
                "requests": 1, "provider_requests": 1, "requests_difference": 0,
                "input": 107, "provider_input": 110, "input_difference": 3,
                "output": 39, "provider_output": 39, "output_difference": 0,
                "cache_read": 40, "provider_cache_read": 40, "cache_read_difference": 0,
            },
            {
                "day": "2024-10-04", "model": "gpt-4o",
                "requests": 2, "provider_requests": 2, "requests_difference": 0,
                "input": 107, "provider_input": 107, "input_difference": 0,
                "output": 45, "provider_output": 45, "output_difference": 0,
                "cache_read": 40, "provider_cache_read": 40, "cache_read_difference": 0,
            },
        ],
        "total": {
            "requests": 3, "provider_requests": 3, "requests_difference": 0,
            "input": 214, "provider_input": 217, "input_difference": 3,
            "output": 84, "provider_output": 84, "output_difference": 0,
            "cache_read": 80, "provider_cache_read": 80, "cache_read_difference": 0,
        },
    }  # fmt: skip


def test_openai_costs_add_up_by_model_whatever_the_class(store: EventStore) -> None:
    at = FIRST // 1000
    said = {"start_time": at, "amount_currency": "usd"}
    lines = [
        OPENAI_COSTS,
        line_of(OPENAI_COSTS, **said, line_item='"gpt-4o-2024-08-06, input"',
                amount_value="0.300000000000000000000000001"),
        line_of(OPENAI_COSTS, **said, line_item='"gpt-4o-2024-08-06, output"', amount_value="0.2"),
        line_of(OPENAI_COSTS, start_time=at + 86_400),
    ]  # fmt: skip
    usage = read_provider_usage(lines)
    made = reconcile(store, ReconcileRequest(usage, "openai", Fraction(2)))
    ((line),) = made.lines
    ((cost),) = line.figures
    assert (cost.ours, cost.provider, cost.difference) == (1_000_000_005, 1_000_000_000, -5)
    assert usage.currency == "usd"


def test_costs_that_are_not_by_line_item_are_refused_with_what_to_do() -> None:
    lines = [OPENAI_COSTS, line_of(OPENAI_COSTS, start_time=1_759_622_400, amount_value="0.8")]
    with pytest.raises(OperationError, match=r"line 2: .*grouped by line item"):
        read_provider_usage(lines)


def test_anthropic_usage_and_cost_are_read() -> None:
    used = line_of(
        ANTHROPIC_USAGE, usage_date_utc="2024-10-04", model_version="claude-haiku-4-5-20251001",
        usage_input_tokens_no_cache=100, usage_input_tokens_cache_write_5m=7,
        usage_input_tokens_cache_write_1h=8, usage_input_tokens_cache_read=9,
        usage_output_tokens=20, context_window="≤ 200k", web_search_count=3,
    )  # fmt: skip
    read = read_provider_usage([ANTHROPIC_USAGE, used, used])
    assert not read.has_cost
    ((key, sums),) = read.lines.items()
    assert key == ("2024-10-04", "claude-haiku-4-5")
    assert sums.quantities == {
        "input": 200, "cache_write": 14, "cache_write_1h": 16, "cache_read": 18, "output": 40,
    }  # fmt: skip
    cost = line_of(
        ANTHROPIC_COST, usage_date_utc="2024-10-04", model="Claude Haiku 4.5", cost_usd="0.05"
    )
    billed = read_provider_usage([ANTHROPIC_COST, cost, cost])
    assert (billed.has_cost, billed.measures) == (True, ())
    assert {key: sums.cost for key, sums in billed.lines.items()} == {key: Fraction(1, 10)}


def test_a_generic_file_has_our_names_or_says_what_its_own_mean(store: EventStore) -> None:
    lines = ["Date,Slug,Usage,Prompt Tokens,Note", "2024-10-04,vendor/llama,0.25,12,x"]
    columns = {
        "Date": "day", "Slug": "model", "Usage": "cost", "Prompt Tokens": "input", "Note": "",
    }  # fmt: skip
    usage = read_provider_usage(lines, columns, {"vendor/llama": "llama"})
    made = reconcile(store, ReconcileRequest(usage, "own"))
    ((line),) = made.lines
    assert (line.day, line.model) == ("2024-10-04", "llama")
    assert [(f.measure, f.ours, f.provider) for f in line.figures] == [
        ("cost", 0, 250_000_000),
        ("input", 12, 12),
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([OPENAI_USAGE + ",output_video_tokens,tips"], "output_video_tokens, tips"),
        (["day,model,inputt"], "inputt"),
        (["when,what"], "when, what"),
        ([], "no export that is known"),
        (["day,model,input", "2024-10-04,m"], "line 2 has 2 columns"),
        (["day,model,input", "2024-10-04,m,1.5"], "line 2: '1.5' is not a whole number"),
        (["day,model,cost", "2024-10-04,m,much"], "'much' is not a number"),
        (["day,model,cost", "2024-10-04,m,NaN"], "'NaN' is not a number"),
        (["day,model,input", "yesterday,m,1"], "'yesterday' is not a date"),
        (["day,model,input", ",m,1"], "line 2: it has no day"),
        (["day,model,cost,currency", "2024-10-04,m,1,usd", "2024-10-04,m,1,EUR"], "eur, usd"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(lines: list[str], said: str) -> None:
    with pytest.raises(OperationError, match=said):
        read_provider_usage(lines)


def test_a_column_that_is_renamed_must_be_there() -> None:
    with pytest.raises(OperationError, match="no column 'Dat'"):
        read_provider_usage(["Date,model"], {"Dat": "day"})


def test_days_are_utc_whatever_form_they_have() -> None:
    lines = ["day,model,input", "2024-10-04,m,1", "1728000000,m,1", "2024-10-05T01:00:00+02:00,m,1"]
    assert list(read_provider_usage(lines).lines) == [("2024-10-04", "m")]


def test_differences_come_first_the_largest_on_top(store: EventStore) -> None:
    lines = ["day,model,cost", "2024-10-04,gpt-4o,1.000000005", "2024-10-05,gpt-4o,3",
             "2024-10-05,x,0.5"]  # fmt: skip
    usage = read_provider_usage(lines)
    made = reconcile(store, ReconcileRequest(usage, "openai"))
    assert [(line.day[-2:], line.model, line.differs) for line in made.lines] == [
        ("05", "gpt-4o", True),
        ("05", "x", True),
        ("04", "gpt-4o", False),
    ]


def test_model_names_are_compared_without_their_dates() -> None:
    for theirs, plain in (
        ("Claude 3.5 Sonnet 2024-10-22", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("gpt-4.1", "gpt-4-1"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("o3", "o3"),
        ("model-1999", "model-1999"),
    ):
        assert plain_model(theirs) == plain


def test_a_quantity_the_file_does_not_have_is_part_of_its_parent() -> None:
    assert fold("reasoning", ("input", "output")) == "output"
    assert fold("cache_write_1h", ("input", "output")) == "input"
    assert fold("cache_write_1h", ("cache_write", "input")) == "cache_write"
    assert fold("image", ("input",)) is None
