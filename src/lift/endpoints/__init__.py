"""Endpoints of OpenAI's shape: how one is reached, when a request is made again, and which replies are kept."""
