"""Closed models: fine-tuned and asked through an endpoint of OpenAI's shape, whose weights never leave it."""
