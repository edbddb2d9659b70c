"""`bootplane up` with HTTPS, as an operator has it: a certificate, its renewal, and an end in the middle of a boot."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.http_client import Client, curl
from tests.fakes.mirror import small_products
from tests.fakes.tls import write_pair
from tests.fakes.up import Site, started, up

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

IMAGE = "ubuntu/noble/amd64/ga-24.04"
ROOT_BYTES = 8 << 20  # more than both sockets' buffers hold


class Https(NamedTuple):
    folder: Path
    site: Site
    certificate: str
    options: tuple[str, ...]


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Https]:
    folder = tmp_path_factory.mktemp("site")
    certificate, key = write_pair(folder, days=(-1, 90))
    options = ("--https", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key)
    with up(folder, *options, products=partial(small_products, root_bytes=ROOT_BYTES)) as site:
        yield Https(folder, site, certificate, options)


def name_of(site: Site, ftype: str) -> str:
    files = site.json("image", "show", IMAGE)["files"]
    return str(next(file["names"][0] for file in files if file["ftype"] == ftype))


def certificate_state(site: Site) -> tuple[str, str]:
    found = json.loads(site.command("doctor", "--json").stdout)["items"]
    (state,) = [(item["state"], item["found"]) for item in found if item["check"] == "certificate"]
    return state


def test_machines_fetch_by_https_and_the_operator_sees_where(https: Https) -> None:
    site, address = https.site, https.site.ready["https"]
    curl("--cacert", https.certificate, "-o", os.devnull, f"https://{address}/{name_of(site, 'boot-kernel')}")
    (rack,) = site.eventually(lambda: site.json("rack", "list")["items"], lambda found: found[0]["https"] is not None)
    assert rack["https"] == address == json.loads((site.data / "run.json").read_text())["https"]
    assert f"HTTPS at {address}" in site.run("rack", "show")


def test_a_renewed_certificate_is_served_after_a_sighup(https: Https) -> None:
    site = https.site
    assert certificate_state(site)[0] == "ok"
    write_pair(https.folder, days=(-1, 91))
    assert certificate_state(site) == ("warn", f"{https.certificate} is not the one that the rack serves")
    os.kill(json.loads((site.data / "run.json").read_text())["pid"], signal.SIGHUP)
    site.eventually(lambda: certificate_state(site)[0], lambda state: state == "ok")


def test_what_a_machine_fetches_while_it_ends_comes_whole_and_into_the_timeline(https: Https) -> None:
    """The last one: it ends the site."""
    site = https.site
    name = name_of(site, "squashfs")
    with Client(int(site.http.rpartition(":")[2]), receive_buffer=4096) as machine:
        machine.send(f"GET /{name} HTTP/1.1\r\nHost: rack\r\n\r\n".encode())
        assert machine.head().headers["Content-Length"] == str(ROOT_BYTES)
        pid = json.loads((site.data / "run.json").read_text())["pid"]
        os.kill(pid, signal.SIGTERM)
        site.eventually(site.log.read_text, lambda log: "draining" in log)
        curl("-o", os.devnull, f"http://{site.ready['region']}/healthz")  # it is there as long as the rack serves
        assert machine.rest() == (ROOT_BYTES, "closed")
    stat = Path(f"/proc/{pid}/stat")
    site.eventually(stat.read_text, lambda text: text.rpartition(")")[2].split()[0] == "Z")  # the fixture waits for it
    with started(https.folder, *https.options) as again:
        events = again.json("machine", "timeline", "127.0.0.1")["events"]
    fetched = [event for event in events if event["kind"] == "transfer" and event["name"] == name]
    assert [(each["outcome"], each["detail"]["sent"]) for each in fetched] == [("complete", ROOT_BYTES)]
