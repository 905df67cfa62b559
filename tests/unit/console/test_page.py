"""Every page is one: it has routes, and no two pages claim the same."""

from collections import Counter

from microvmd.console.page import Section
from microvmd.console.pages import all_pages


def test_routes_are_claimed_once() -> None:
    pages = all_pages()
    counted = Counter((route.method, route.path) for page in pages for route in page.routes)
    assert counted
    assert set(counted.values()) == {1}
    sections = [page.section for page in pages if page.section and page.listed]
    assert len(set(sections)) == len(sections)
    assert set(sections) <= set(Section)


def test_only_the_way_in_is_open() -> None:
    opened = {route.path for page in all_pages() for route in page.routes if route.open}
    assert opened == {"/login", "/login/{token}", "/theme"}
