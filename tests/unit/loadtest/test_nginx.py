"""nginx as a plain proxy: the benchmark's lower limit."""

from pathlib import Path

import httpx
import pytest

from loadtest import children, nginx
from loadtest.tls import TlsFiles
from tests.support.upstreams import tls_files

__all__ = ["tls_files"]


@pytest.mark.debian
def test_nginx_proxies_to_plain_and_tls_upstreams(tmp_path: Path, tls_files: TlsFiles) -> None:
    with children.provider() as plain, children.provider(tls_files) as secure:
        upstreams = {
            "plain": nginx.Upstream(plain.url),
            "tls": nginx.Upstream(secure.url, tls_files.authority),
        }
        with nginx.running(tmp_path / "nginx", upstreams) as proxy:
            for name in upstreams:
                for streams in (False, True):
                    answer = httpx.get(proxy.url(name, streams=streams) + "/v1/models")
                    assert answer.status_code == 200
            assert len(proxy.pids()) == 2
        with pytest.raises(httpx.ConnectError):
            httpx.get(proxy.url("plain", streams=False))
