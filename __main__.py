"""`python -m msdm_kit`: the command, also as ``torchrun -m msdm_kit`` starts it in several processes."""

from .cli.main import main

if __name__ == "__main__":
    main()
