"""Prints a value of a YAML file, or of its mapping ``options`` the options of a command line, one word a line.

An option that is true has no value on the command line; one that is false is left out.

python scripts/yaml_options.py CONFIG [KEY]
"""

import sys
from pathlib import Path

import yaml


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(str(__doc__).strip())
    path, key = Path(sys.argv[1]), "".join(sys.argv[2:]) or "options"
    if not path.is_file():
        sys.exit(f"CONFIG must be a YAML file; there is no file {path}")
    values = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(values, dict) or key not in values:
        sys.exit(f"CONFIG must be a mapping with {key}; {path} is none")
    if len(sys.argv) == 3:
        sys.stdout.write(f"{values[key]}\n")
        return
    for name, value in values["options"].items():
        if value is not False:
            sys.stdout.write(f"--{name}\n" if value is True else f"--{name}\n{value}\n")


if __name__ == "__main__":
    main()
