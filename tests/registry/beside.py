"""Something that happens at a chosen read of a blob: what another process may do between any two steps of ours."""


class Beside:
    """A blob store that does something before one of its reads.

    Args:
        blobs: The store.
        act: What happens; called with no arguments.
        at: Before which read, from 0; None means before each.
    """

    def __init__(self, blobs, act, at=None):
        self._blobs, self._act, self._at, self.reads, self._acting = blobs, act, at, 0, False

    def __getattr__(self, name):
        return getattr(self._blobs, name)

    def __iter__(self):
        return iter(self._blobs)

    def view(self, *arguments, **more):
        self._before()
        return self._blobs.view(*arguments, **more)

    def get(self, *arguments, **more):
        self._before()
        return self._blobs.get(*arguments, **more)

    def _before(self):
        if self._acting:
            return
        self._acting = True
        try:
            if self._at in (None, self.reads):
                self._act()
        finally:
            self._acting = False
        self.reads += 1
