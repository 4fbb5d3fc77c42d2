"""Runs side by side: what differs in their configurations, and whether their scores do."""
