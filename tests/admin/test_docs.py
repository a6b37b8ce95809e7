"""The API's documentation: served pages, and the reference in docs/."""

from pathlib import Path

from gateway.admin.api.errors import ERRORS
from gateway.admin.reference_page import NAME, admin_api_page
from tests.support.console import Console

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / NAME


def test_the_reference_says_what_the_api_does() -> None:
    assert REFERENCE.read_text() == admin_api_page(), "run `make docs`"


async def test_an_error_points_at_its_line_of_the_served_page(console: Console) -> None:
    answer = await console.bare.get("/api/v1/customers")
    url = answer.json()["error"]["doc_url"]
    page = await console.bare.get(url)
    assert page.status_code == 200
    assert f'id="{url.partition("#")[2]}"' in page.text
    assert all(f'id="{code}"' in page.text for code in ERRORS)


async def test_the_served_page_names_every_call(console: Console) -> None:
    document = (await console.bare.get("/api/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    page = (await console.bare.get("/api/docs")).text
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
