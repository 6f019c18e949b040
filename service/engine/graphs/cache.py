"""A slot cache with one token more a slot, where rows that decode nothing may write."""

from service.engine.pytorch.cache import SlotCache


class GraphCache(SlotCache):
    """A recorded step always writes a token to each of its slots; ``scratch`` is never read."""

    spare_tokens = 1

    @property
    def scratch(self) -> int:
        """Position of the token that is never read."""
        return self.max_tokens
