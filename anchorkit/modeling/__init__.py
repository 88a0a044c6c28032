"""Networks. Importing it registers every body and every meta-architecture."""

from . import backbone, meta_arch

__all__ = ["backbone", "meta_arch"]
