"""Looking at, checking, fetching and converting datasets: what `dqlab data` does."""
