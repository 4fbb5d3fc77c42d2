"""D4RL's AntMaze: its mazes, its ant, its goals, and the environment."""
