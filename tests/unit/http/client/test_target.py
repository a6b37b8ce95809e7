"""Base URLs as SDKs write them, and queries that the operator adds."""

import pytest

from gateway.http.client.target import join_path, join_query

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        ("", CHAT, CHAT),
        ("/v1", CHAT, CHAT),
        ("/openai/v1", CHAT, "/openai/v1/chat/completions"),
        ("/api/paas/v4", CHAT, "/api/paas/v4/chat/completions"),
        ("/v1beta", "/v1beta/models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("/v1beta", "/v1/models/m:generateContent", "/v1beta/models/m:generateContent"),
        ("/v1alpha1", CHAT, "/v1alpha1/chat/completions"),
        ("/v1beta/openai", CHAT, "/v1beta/openai/chat/completions"),
        (
            "/openai/deployments/gpt-4o",
            CHAT,
            "/openai/deployments/gpt-4o/chat/completions",
        ),
        ("/openai", CHAT, "/openai/v1/chat/completions"),
        ("/v1/proxy", CHAT, "/v1/proxy/v1/chat/completions"),
        ("/av1", CHAT, "/av1/v1/chat/completions"),
        ("/v1", "/geocode", "/v1/geocode"),
        ("/v1", "/v1", "/v1/v1"),
        ("/v1", "/v1x/a", "/v1/v1x/a"),
        ("/v1", "/users/v1/a", "/v1/users/v1/a"),
    ],
)
def test_a_version_at_the_end_of_a_base_replaces_the_path_s(
    base: str, path: str, target: str
) -> None:
    assert join_path(base, path) == target


@pytest.mark.parametrize(
    ("target", "added", "joined"),
    [
        ("/a", "", "/a"),
        ("/a?b=1", "", "/a?b=1"),
        ("/a", "api-version=1", "/a?api-version=1"),
        ("/a?alt=sse", "api-version=1", "/a?alt=sse&api-version=1"),
        ("/a?api%2Dversion=9&b=2", "api-version=1", "/a?b=2&api-version=1"),
    ],
)
def test_added_parameters_replace_those_of_the_same_name(
    target: str, added: str, joined: str
) -> None:
    assert join_query(target, added) == joined
