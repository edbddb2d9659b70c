"""What a region hears from its operators and racks, for locust: pages, lists, the catalogue, boot texts.

``bench/api.py`` starts a region and runs this against it. The token and the rack's secret come from the environment.
"""

from __future__ import annotations

import os

from locust import FastHttpUser, constant_throughput, task


class Operator(FastHttpUser):  # type: ignore[misc]
    """Looks at the overview and at lists, as a page that is open does."""

    weight = 1
    wait_time = constant_throughput(10)

    def on_start(self) -> None:
        self.headers = {"Authorization": f"Bearer {os.environ['BENCH_TOKEN']}"}

    @task(3)
    def status(self) -> None:
        self.client.get("/api/v1/status", headers=self.headers)

    @task
    def images(self) -> None:
        self.client.get("/api/v1/images", headers=self.headers)


class Rack(FastHttpUser):  # type: ignore[misc]
    """Asks for boot texts, as machines of its subnet power on."""

    weight = 4
    wait_time = constant_throughput(50)

    def on_start(self) -> None:
        self.headers = {"Authorization": f"Bearer {os.environ['BENCH_RACK_SECRET']}"}

    @task
    def boot(self) -> None:
        where = "proto=http&peer=127.0.0.9&http=127.0.0.1:5248&tftp=127.0.0.1:69"
        self.client.get(
            f"/rack/v1/boot?name=grub/grub.cfg-52:54:00:77:00:01&{where}", headers=self.headers, name="boot"
        )
