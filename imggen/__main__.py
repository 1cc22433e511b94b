"""`python -m imggen`: the command line as a module, which torchrun starts."""

from imggen.cli.app import main

if __name__ == "__main__":
    main()
