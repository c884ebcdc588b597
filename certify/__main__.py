"""`python -m certify` is `certify`; torchrun starts it this way."""

from certify.cli import main

if __name__ == "__main__":
    main()
