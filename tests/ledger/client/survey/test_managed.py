"""Services are recognised by the host names and INFO fields that they are known for, others are not."""

from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.client.survey.managed import recognise

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("master.led.ab12cd.use1.cache.amazonaws.com", "Amazon ElastiCache"),
        ("clustercfg.led.ab12cd.cnn1.cache.amazonaws.com.cn", "Amazon ElastiCache"),
        ("clustercfg.led.ab12cd.memorydb.us-east-1.amazonaws.com", "Amazon MemoryDB"),
        ("ledger.redis.cache.windows.net", "Azure Cache for Redis"),
        ("ledger.westeurope.redis.azure.net", "Azure Managed Redis"),
        ("EU1-Ledger-1234.Upstash.io", "Upstash"),
        ("redis-1.c1.us-east-1-2.ec2.redns.redis-cloud.com", "Redis Cloud"),
        ("redis-1.c1.us-east-1-2.ec2.cloud.redislabs.com", "Redis Cloud"),
    ],
)
def test_a_host_name_names_the_service(host: str, name: str) -> None:
    service = recognise(["10.0.0.1", host], {})
    assert service is not None
    assert service.name == name
    assert (ROOT / service.page).is_file()


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({"os": "Amazon ElastiCache"}, "Amazon ElastiCache"),
        ({"os": "Amazon MemoryDB"}, "Amazon MemoryDB"),
        ({"upstash_version": "1.10.5"}, "Upstash"),
        ({"rlec_version": "7.4.2-54"}, "Redis Cloud"),
    ],
)
def test_an_address_without_a_name_is_recognised_by_info(info: dict[str, Any], name: str) -> None:
    service = recognise(["10.0.0.1"], info)
    assert service is not None
    assert service.name == name


def test_azure_managed_redis_is_not_mistaken_for_redis_cloud() -> None:
    service = recognise(["ledger.westeurope.redis.azure.net"], {"rlec_version": "7.4.2-54"})
    assert service is not None
    assert service.name == "Azure Managed Redis"


@pytest.mark.parametrize(
    "host",
    [
        "redis.internal",
        "10.0.0.1",
        "upstash.io.example.com",
        "notupstash.io",
        "cache.amazonaws.com",
    ],
)
def test_other_servers_are_nobodys(host: str) -> None:
    assert recognise([host], {"os": "Linux 6.1.0 x86_64", "redis_version": "7.2.0"}) is None
