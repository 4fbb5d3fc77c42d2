"""Programs on top, a file or folder behind a command; nothing below imports them."""
