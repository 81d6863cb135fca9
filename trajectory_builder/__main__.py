"""`python -m trajectory_builder` is `trajbuild`."""

from trajectory_builder.cli import main

if __name__ == "__main__":
    main()
