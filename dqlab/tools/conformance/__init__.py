"""What every component of a kind must do: `dqlab check`, and `dqlab.testing` for tests."""
