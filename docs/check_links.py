"""Check the pages of a built site: every local link and anchor exists, every picture says what it shows, and nothing is loaded from a network.

    python docs/check_links.py docs/_build/html
"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {'script': 'src', 'img': 'src', 'link': 'href', 'iframe': 'src', 'source': 'src', 'video': 'src', 'audio': 'src', 'embed': 'src', 'object': 'data'}


class Page(HTMLParser):
    "Links, anchors and what the page loads."
    def __init__(self, text:str):
        super().__init__()
        self.links, self.loads, self.anchors, self.mute = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        "Collect."
        a = dict(attrs)
        self.anchors |= {v for k,v in a.items() if k in ('id', 'name') and v}
        if tag == 'a' and 'href' in a: self.links.append(a['href'] or '')
        if tag in LOADS and a.get(LOADS[tag]) and a.get('rel') not in ('canonical',): self.loads.append(a[LOADS[tag]])
        if tag == 'img' and 'alt' not in a: self.mute.append(a.get('src', '')[:60])


def problems(site:Path)->list[str]:
    "One line for each thing that is wrong."
    pages, out = {p.resolve(): Page(p.read_text(encoding='utf-8')) for p in sorted(site.rglob('*.html'))}, []
    if not pages: return [f'there is no page in {site}']
    for path,page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        out += [f'{name}: a picture without words for it: {m}' for m in page.mute]
        for link in page.loads + page.links:
            u = urlsplit(link)
            if u.scheme in ('http', 'https') or u.netloc:
                if link in page.loads: out.append(f'{name}: loads {link} from a network')
                continue
            if u.scheme: # data:, mailto:
                if u.scheme not in ('data', 'mailto'): out.append(f'{name}: {link}')
                continue
            target = (path.parent/unquote(u.path)).resolve() if u.path else path
            if target.is_dir(): target = target/'index.html'
            if not target.exists(): out.append(f'{name}: there is no {link}')
            elif u.fragment and target in pages and unquote(u.fragment) not in pages[target].anchors: out.append(f'{name}: there is no anchor {link}')
    for css in sorted(site.rglob('*.css')):
        if 'url(http' in css.read_text(encoding='utf-8').replace('"', '').replace("'", ''): out.append(f'{css.name}: loads from a network')
    return out


def main(argv=None)->int:
    "1 for a problem."
    site = Path((argv or sys.argv[1:])[0])
    found = problems(site)
    for line in found: print(line)
    print(f'{len(list(site.rglob("*.html")))} pages, {len(found)} problems')
    return 1 if found else 0


if __name__ == '__main__': sys.exit(main())
