"""Which of the workers of a test run gets which tests."""

from xdist.scheduler import LoadScopeScheduling

from tests.checkout import folder_of


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Among workers, a folder's tests stay together: they share services, labs and images.

    The scheduler of xdist that keeps marked groups together writes the group into a field that
    pytest 9.2 does not read any more, and so spreads all tests without a word.
    """

    def _split_scope(self, nodeid: str) -> str:
        return folder_of(nodeid)
