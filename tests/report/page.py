"""A parser of report pages, shared by the tests of reports."""

import base64
import io
from html.parser import HTMLParser

import numpy as np

_VOID = {"meta", "img", "line", "circle", "polyline", "rect", "br"}


class Page(HTMLParser):
    """The elements and the text of a page, checked for proper nesting."""

    def __init__(self, source):
        super().__init__()
        self.source, self.elements, self.texts, self._open = source, [], [], []
        self.feed(source)
        assert self._open == []
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def image(self, alt):
        (found,) = (attributes for attributes in self.all("img") if attributes["alt"] == alt)
        return pixels(found)


def pixels(attributes):
    """The array inside an `<img>` element."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1]))))
