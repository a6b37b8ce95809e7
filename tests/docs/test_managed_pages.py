"""The pages on managed services: the user that they document suffices, and their samples are read."""

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from gateway.ledger.client.rights import NAMES
from gateway.ledger.client.survey.managed import recognise
from gateway.settings import load_settings
from loadtest.topology.cluster import Cluster
from tests.ledger.client.survey.test_ledger import survey
from tests.ledger.servers import server

FOLDER = Path(__file__).parents[2] / "docs" / "how-to" / "managed"
INDEX = (FOLDER / "index.md").read_text()
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name != "index.md")


def documented_user() -> list[str]:
    found = re.search(r"^on (~.*)$", INDEX, re.M)
    assert found is not None
    return ["on", *found[1].split()]


def on_a_cluster() -> list[str]:
    found = re.search(r"^- on a cluster: `(.*)`;$", INDEX, re.M)
    assert found is not None
    return [*documented_user(), *found[1].split()]


def test_the_user_has_the_commands_that_are_asked_for_and_no_others() -> None:
    allowed = {word[1:].partition("|")[0].upper() for word in documented_user() if word[0] == "+"}
    assert allowed == NAMES


async def test_the_user_suffices_on_a_server(tmp_path: Path) -> None:
    with server(tmp_path, "--user", "gate", ">secret", *documented_user()) as own:
        (node,) = (await survey(f"unix://gate:secret@{own.socket}")).nodes
    assert (node.away, node.missing_rights, node.scripts) == (None, (), None)


async def test_the_user_suffices_on_a_cluster(tmp_path: Path) -> None:
    with Cluster(tmp_path, replicas=0) as cluster:
        for each in cluster.nodes:
            rules = ["gate", ">secret", *on_a_cluster()]
            await asyncio.to_thread(each.ask, "ACL", "SETUSER", *rules)
        found = await survey(f"redis+cluster://gate:secret@{cluster.addresses[0]}")
    assert len(found.nodes) == 3
    for node in found.nodes:
        assert (node.away, node.missing_rights, node.scripts) == (None, (), None)
        assert node.settings is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_sample_of_a_page_is_read_and_its_service_recognised(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sample,) = re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(), re.M | re.S)
    for name in re.findall(r"\$\{(\w+)\}", sample):
        monkeypatch.setenv(name, "secret")
    document = yaml.safe_load(sample)
    if file := document["redis"].get("tls", {}).get("ca_file"):
        (tmp_path / file).write_text("a certificate\n")
    config = tmp_path / "gateway.yaml"
    document |= {"upstreams": {"up": {"base_url": "http://127.0.0.1:9/v1"}}}
    document |= {
        "models": {
            "m": {"upstream": "up", "max_output_tokens": 9, "prices": {"input": 1, "output": 1}}
        }
    }
    config.write_text(yaml.safe_dump(document))
    redis = load_settings(config).redis
    assert redis.durability != "detect"
    host = re.findall(r"://(?:[^@/]*@)?([\w.-]+)", redis.shown_url)
    service = recognise(host, {})
    if page.name == "memorystore.md":
        assert service is None
    else:
        assert service is not None
        assert service.page == f"docs/how-to/managed/{page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_that_it_was_not_tried(page: Path) -> None:
    assert "Not tried on the service." in page.read_text()
    assert "**No page in this folder was tried on the real service.**" in INDEX
