"""Pages are whole, need no other file, and show hostile text as text."""

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from markup import Tags
from PIL import Image

from perl_jax.runtime import html
from perl_jax.runtime.html import Html, element

HOSTILE = "</script><script>alert(1)</script> \"onerror='alert(2)' <!-- & \ud800"


def test_all_that_is_not_html_is_escaped():
    made = element("p", HOSTILE, element("b", HOSTILE), 3, class_=HOSTILE, data_id=HOSTILE)
    tags = Tags(made)
    assert tags.tags == {"p", "b"}
    assert tags.attributes == [("class", HOSTILE), ("data-id", HOSTILE)]
    assert tags.words == HOSTILE + HOSTILE + "3"
    assert element("img", alt='"onerror=') == '<img alt="&quot;onerror=">'
    assert isinstance(html.concat(made, "<"), Html) and html.concat(made, "<").endswith("&lt;")


def test_a_page_allows_its_own_script_alone():
    for script, allowed in (("", None), ("let a = 1 < 2 && 'x'", True)):
        tags = Tags(html.page(HOSTILE, [element("p", HOSTILE)], script=script))
        (policy,) = [value for name, value in tags.attributes if name == "content" and "default-src" in value]
        assert policy.startswith("default-src 'none'") and ("script" in tags.tags) == bool(allowed)
        digests = re.findall(r"script-src 'sha256-(.*?)'", policy)
        assert digests == ([base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()] if allowed else [])
        assert not [name for name, _ in tags.attributes if name.startswith("on") or name == "href"]


@pytest.mark.parametrize("size", [(1000, 500), (30, 3), (1, 900)])
def test_thumbnails_are_small_and_whole(size):
    image = Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8))
    [(_, alt), (_, src)] = Tags(html.thumbnail(image, HOSTILE)).attributes
    kind, data = src.split(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as small:
        assert alt == HOSTILE and kind == "data:image/jpeg;base64" and small.format == "JPEG"
        assert max(small.size) == min(max(size), html.SIDE)
        assert abs(np.asarray(small).mean() - 90) < 2
    assert image.size == size


def test_a_table():
    tags = Tags(html.table(["<a>", "b"], [["<i>", element("td", "x", class_="number")]], "figures"))
    assert tags.words == "<a>b<i>x" and ("class", "number") in tags.attributes
    assert html.table(["a"], [], "figures") == ""
