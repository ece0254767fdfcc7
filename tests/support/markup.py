"""Parses the content of an HTML page for tests."""

from html.parser import HTMLParser

from perl_jax.runtime import html


class Tags(HTMLParser):
    """The tags, attributes and text of a page; fails on unclosed tags."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in html.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
