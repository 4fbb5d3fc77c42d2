"""How close today's environments come to D4RL's own, measured by stepping both."""
