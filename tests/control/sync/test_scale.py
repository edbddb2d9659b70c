"""A whole stream, 200 products in two serials: the first sync moves each selected byte once, the second nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import many_products
from tests.fakes.operator import INDEX, operator

pytestmark = pytest.mark.integration
PRODUCTS = 200
NEWEST = "20250812"


def test_two_hundred_products_are_fetched_once_and_then_cost_one_request(tmp_path: Path, signer: Signer) -> None:
    with pytest.MonkeyPatch.context() as patch, operator(tmp_path, signer, patch) as site:
        products = list(many_products(tmp_path / "many", PRODUCTS))
        site.publish(products)
        site.json("source", "add", site.mirror.url, "--keyring", site.keyring())
        site.json("select", "add", "ubuntu", "*", "--arch", "*")
        site.forget()
        site.sync()
        sizes = {blob.sha256: blob.size for stored in site.region.images.sets() for blob in stored.resource_set.files}
        images = site.state().images
        assert len(images) == PRODUCTS and set(images.values()) == {NEWEST}
        offered = sum(len(product.items) for product in products if product.version == NEWEST)
        assert offered == 4 * PRODUCTS > len(sizes)  # equal bytes under several paths
        assert site.item_bytes() == sum(sizes.values())
        fetched = [path for path in site.mirror.requests if not path.startswith("streams/")]
        assert len(fetched) == len(sizes) == len(set(fetched))

        written: list[object] = []
        patch.setattr(site.region.images, "decide", lambda *decision: written.append(decision))
        site.forget()
        site.sync()
        assert written == []  # what stands in the database already is not written again
        assert site.mirror.requests == [INDEX] and site.item_bytes() == 0
