"""Prints a value of a YAML file, or of its mapping ``options`` the options of a command line, one word a line.

python scripts/yaml_options.py CONFIG [KEY]
"""

import sys
from pathlib import Path

import yaml


def main() -> None:
    config, *key = sys.argv[1:]
    values = yaml.safe_load(Path(config).read_text("utf-8"))
    if key:
        sys.stdout.write(f"{values[key[0]]}\n")
        return
    for name, value in values["options"].items():
        sys.stdout.write(f"--{name}\n" if value is True else f"--{name}\n{value}\n")


if __name__ == "__main__":
    main()
