"""Path templates match whole segments in one way, and two that overlap are known to."""

import pytest

from gateway.flow.paths import PathTable, Template


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/v1/users/{id}/report", "/v1/users/7/report", True),
        ("/v1/users/{id}/report", "/v1/users/a.b-c~@=/report", True),
        ("/v1/users/{id}/report", "/v1/users//report", False),
        ("/v1/users/{id}/report", "/v1/users/7/8/report", False),
        ("/v1/users/{id}/report", "/v1/users/7/report/", False),
        ("/v1/users/{id}/report", "/v1/users/a%20b/report", False),
        ("/v1/users/{id}/report", "/V1/users/7/report", False),
        ("/v1/users/{id}", "/v1/users/7:run", False),
        ("/m/{model}:run", "/m/small-1.5:run", True),
        ("/m/{model}:run", "/m/small", False),
        ("/m/{model}:run", "/m/small:run:run", False),
        ("/m/{model}:run", "/m/:run", False),
        ("/m/{model}:run", "/m/small:runs", False),
        ("/a.b", "/aXb", False),
    ],
)
def test_a_template_matches_segment_by_segment(template: str, path: str, matches: bool) -> None:
    assert Template(template).matches(path) is matches
    assert PathTable([(template, "it")]).find(path) == ("it" if matches else None)


@pytest.mark.parametrize(
    "text",
    ["v1", "/", "/v1/", "/v1//x", "/{a}/{a}", "/x{a}", "/{a}x", "/{A}", "/..", "/a%20", "/{a}:"],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        Template(text)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("/a/{x}", "/{y}/b", True),
        ("/a/{x}", "/a/{y}:run", False),
        ("/a/{x}:run", "/a/{y}:run", True),
        ("/a/{x}:run", "/a/b:run", True),
        ("/a/{x}", "/b/{y}", False),
        ("/a/{x}", "/a/{x}/c", False),
        ("/a/{x}", "/a/b", True),
    ],
)
def test_two_templates_that_one_path_could_mean_are_known(
    one: str, other: str, overlap: bool
) -> None:
    assert Template(one).overlaps(Template(other)) is overlap
    assert Template(other).overlaps(Template(one)) is overlap


def test_a_path_without_placeholders_goes_first() -> None:
    table = PathTable([("/users/{id}", "open"), ("/users/me", "me")])
    assert (table.find("/users/me"), table.find("/users/you")) == ("me", "open")
