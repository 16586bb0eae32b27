"""Parser of HTML pages, for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements, tables (rows of cells), text, and figures' captions."""

    def __init__(self, source):
        super().__init__()
        self.source, self.elements, self.tables, self.text, self._open = source, [], [], "", []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if "style" not in self._open:
            self.text += " ".join(data.split()) + "\n"
