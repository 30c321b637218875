"""The library over HTTP: OpenAI's routes, Lift's own, and a page."""
