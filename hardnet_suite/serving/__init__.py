"""Models behind HTTP: an ASGI application, and a page to try them. Needs the extra ``serve``."""

from hardnet_suite.serving.app import ServeLimits, create_app
from hardnet_suite.serving.batching import Batcher, BusyError

__all__ = ["Batcher", "BusyError", "ServeLimits", "create_app"]
