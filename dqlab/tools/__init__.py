"""Programs on top, one folder behind one command; nothing below imports them."""
