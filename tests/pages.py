"""What a page must be, whatever it reports: whole, self-contained, and harmless."""

import html.parser
import re

HOSTILE = "<script>alert(1)</script> & \"'$\\frac{1}{2}$ {{ 7 * 7 }}"
_VOID = {"meta", "img", "link", "br", "hr"}
_FORBIDDEN = {"script", "iframe", "object", "embed", "base", "form", "foreignobject", "animate", "a:href"}


class Page(html.parser.HTMLParser):
    """Every tag with its attributes, all text, and what was left open; closing out of order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def said(self) -> str:
        """All text, runs of white space as one blank."""
        return " ".join(" ".join(self.words).split())


def checked(text: str) -> Page:
    """The page, of which all holds that holds of every page."""
    page = Page(text)
    assert page.open == []
    names = {name for name, _ in page.tags}
    assert not names & _FORBIDDEN
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "srcset", "action", "formaction", "poster", "background"):
                assert value.startswith(("data:image/png;base64,", "#", "data:,")), (tag, key)
                assert not value.startswith("#") or value[1:] in ids, f"{tag} refers to {value}"
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.startswith("#"), (tag, key, value)
                assert target[1:] in ids
            if key == "aria-labelledby":
                assert value in ids
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert "@import" not in text
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    return page
