"""How an action is made, and which of several candidates is taken."""
