"""A stand-in for `httptools`, which is written in C: what Sanic uses of it."""

from urllib.parse import urlsplit

from .parser.errors import HttpParserInvalidURLError


class URL:
    def __init__(self, url):
        if not url or min(url) < 0x21 or 0x7F in url:
            raise HttpParserInvalidURLError(f"invalid url {url!r}")
        try:
            parts = urlsplit(b"http://h" + url if url[:1] == b"/" else url)
            self.port = None if url[:1] == b"/" else parts.port
        except ValueError:
            raise HttpParserInvalidURLError(f"invalid url {url!r}") from None
        if url[:1] != b"/" and url != b"*" and not parts.netloc:
            raise HttpParserInvalidURLError(f"invalid url {url!r}")
        own = url[:1] != b"/" and url != b"*"
        self.schema = parts.scheme if own else None
        self.host = parts.hostname if own else None
        self.path = parts.path or None
        self.query = parts.query or None
        self.fragment = parts.fragment or None
        self.userinfo = None


parse_url = URL
