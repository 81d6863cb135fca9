"""Run the command line as a module: `python -m fidediff_model.cli`."""

from fidediff_model.cli import main

if __name__ == "__main__":
    main()
